"""Which definitions of a package are behind a function, on a small package."""

import shutil
import textwrap
from collections.abc import Mapping
from pathlib import Path

import pytest

from data_pipeline.build.module_definitions import Reference
from data_pipeline.build.reachable_code import ReachableCode, reachable_code

SHOP = {
    "__init__": "",
    "main": """
        import re
        from shop import prices
        from shop.texts import clean
        from shop.tools import Basket

        LIMIT = 10
        UNUSED = 1

        def run(text):
            if len(text) > LIMIT:
                return prices.total(text)
            return Basket().add(clean(text))

        def late(text):
            from shop.tools import weigh
            return weigh(re.sub("a", "b", text))

        def other(text):
            return text
        """,
    "prices": """
        RATE = 0.2
        DISCOUNT = 0.5

        def total(text):
            return len(text) * RATE

        def discounted(text):
            return total(text) * DISCOUNT
        """,
    "texts/__init__": """
        from shop.texts.cleaning import clean
        from .words import words
        """,
    "texts/cleaning": """
        def clean(text):
            return strip(text)

        def strip(text):
            return text.strip()
        """,
    "texts/words": """
        def words(text):
            return text.split()
        """,
    "tools": """
        import numpy as np

        class Basket:
            def add(self, item):
                self.item = item
                return self

            def empty(self):
                self.item = None

        def weigh(item):
            return np.sum(item)
        """,
    "loops": "ROUNDS = 3\n",
}
SHOP = {name: textwrap.dedent(text) for name, text in SHOP.items()}
Files = Mapping[str, str]


def written(root: Path, files: Files, *, package: str = "shop") -> Path:
    shutil.rmtree(root / package, ignore_errors=True)
    for name, text in files.items():
        path = root / package / f"{name}.py"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return root / package


def behind(
    root: Path, files: Files, start: str = "main.run", without: frozenset[str] = frozenset()
) -> ReachableCode:
    module, _, name = start.rpartition(".")
    place = written(root, files)
    starts = [Reference(f"shop.{module}", (name,))]
    return reachable_code(starts, {"shop": place}, without_effect=without)


def changed(module: str, old: str, new: str, files: Files = SHOP) -> dict[str, str]:
    assert old in files[module]
    return {**files, module: files[module].replace(old, new)}


@pytest.mark.parametrize(
    ("start", "module", "old", "new"),
    [
        pytest.param("main.run", "main", "LIMIT = 10", "LIMIT = 11", id="constant"),
        pytest.param("main.run", "main", "> LIMIT", ">= LIMIT", id="the function itself"),
        pytest.param("main.run", "prices", "RATE = 0.2", "RATE = 0.3", id="constant elsewhere"),
        pytest.param("main.run", "texts/cleaning", "text.strip()", "text", id="behind a face"),
        pytest.param(
            "main.run", "texts/__init__", "cleaning import clean", "words import words as clean",
            id="another one behind the same face",
        ),
        pytest.param("main.run", "tools", "item = None", "item = 0", id="method"),
        pytest.param("main.late", "tools", "np.sum", "np.max", id="function-level import"),
        pytest.param("main.late", "tools", "numpy as np", "math as np", id="another package"),
        pytest.param("main.run", "main", "import re", "print(LIMIT)", id="call of the module"),
        pytest.param("main.run", "__init__", "", "print('imported')", id="call of its package"),
        pytest.param(
            "main.run", "prices", "RATE = 0.2", "RATE = 0.2\nRATE += 0.1", id="another assignment"
        ),
        pytest.param(
            "main.run", "prices", "RATE = 0.2", "RATE = 0.2\nfor i in (1, 2): RATE += i", id="loop"
        ),
    ],
)  # fmt: skip
def test_a_change_of_what_is_reached_counts(
    tmp_path: Path, start: str, module: str, old: str, new: str
) -> None:
    assert behind(tmp_path, SHOP, start) != behind(tmp_path, changed(module, old, new), start)


@pytest.mark.parametrize(
    ("module", "old", "new"),
    [
        pytest.param("main", "return text\n", "return text[1:]\n", id="another function"),
        pytest.param("main", "UNUSED = 1", "UNUSED = 2", id="another constant"),
        pytest.param("prices", "DISCOUNT = 0.5", "DISCOUNT = 0.6", id="elsewhere"),
        pytest.param("texts/words", "split()", "split('a')", id="behind the same face"),
        pytest.param("tools", "np.sum", "np.max", id="imported by another function"),
        pytest.param("loops", "ROUNDS = 3", "print(1)", id="another module"),
        pytest.param("main", "LIMIT = 10", "LIMIT = 10  # pounds", id="comment"),
        pytest.param("main", "def run(text):", 'def run(text):\n    "Sell."', id="docstring"),
        pytest.param("tools", "class Basket:", 'class Basket:\n    """Its."""\n', id="of a class"),
        pytest.param("main", "LIMIT = 10", 'LIMIT = 10\n"""In pounds."""', id="of a constant"),
        pytest.param("prices", "RATE = 0.2", "RATE = (\n    0.20\n)", id="form"),
        pytest.param("texts/cleaning", "def clean", "import re\n\ndef clean", id="new import"),
        pytest.param(
            "main", "shop.texts import clean", "shop.texts.cleaning import clean",
            id="imported past the face",
        ),
        pytest.param("main", "from shop.texts import", "from .texts import", id="relative import"),
    ],
)  # fmt: skip
def test_nothing_else_counts(tmp_path: Path, module: str, old: str, new: str) -> None:
    assert behind(tmp_path, SHOP) == behind(tmp_path, changed(module, old, new))


def test_a_module_may_move_and_its_import_be_renamed(tmp_path: Path) -> None:
    before, late = behind(tmp_path, SHOP), behind(tmp_path, SHOP, "main.late")
    files = changed("main", "from shop import prices", "import shop.deep.costs as money")
    files = changed("main", "prices.total", "money.total", files)
    files = changed("main", "from shop.tools import Basket", "from shop.deep import Sack", files)
    files = changed("main", "Basket()", "Sack()", files)
    files = changed("main", "import weigh", "import weigh as mass", files)
    files = changed("main", "weigh(re", "mass(re", files)
    files["deep/__init__"] = "from shop.tools import Basket as Sack\n"
    files["deep/costs"] = files.pop("prices")
    files["selling"] = files.pop("main")
    assert behind(tmp_path, files, "selling.run") == before
    assert behind(tmp_path, files, "selling.late") == late


def test_two_definitions_that_change_places_count(tmp_path: Path) -> None:
    files = {
        "main": "from shop import a, b\ndef run(x):\n    return a.f(b.f(x))\n",
        "a": "def f(x):\n    return x + 1\n",
        "b": "def f(x):\n    return x * 2\n",
    }
    assert behind(tmp_path, files) != behind(tmp_path, {**files, "a": files["b"], "b": files["a"]})


@pytest.mark.parametrize(
    "main",
    [
        pytest.param("from shop import far\ndef run(x):\n    return use(far, x)\n", id="passed on"),
        pytest.param(
            "from shop import far\ndef run(x):\n    return getattr(far, x)(x)\n", id="getattr"
        ),
        pytest.param("from shop.far import *\ndef run(x):\n    return f(x)\n", id="star import"),
        pytest.param(
            "def run(x):\n    from shop.face import f\n    return f(x)\n", id="star in a face"
        ),
        pytest.param(
            "try:\n    from shop.far import f\nexcept ImportError:\n    from shop.face import f\n"
            "def run(x):\n    return f(x)\n",
            id="tried import",
        ),
        pytest.param(
            "import sys\nif sys.platform:\n    from shop import far\n"
            "def run(x):\n    return far.f(x)\n",
            id="import under a condition",
        ),
        pytest.param(
            "import shop.far\ndef f(x):\n    return shop.far.f(x)\n"
            "def run(x):\n    return globals()[x](x)\n",
            id="by the name as text",
        ),
        pytest.param(
            "from shop.far import f\ndef run(far):\n    return [f(f) for f in f(far)]\n",
            id="hidden by a name of the function",
        ),
        pytest.param(
            "from shop.far import f\nclass A:\n    f = 1\n    def g(self, x):\n"
            "        return f(x)\ndef run(x):\n    return A().g(x)\n",
            id="not hidden by a name of the class",
        ),
        pytest.param(
            "from shop.far import f\ndef run(x, f=f):\n    return f(x)\n", id="as a default"
        ),
        pytest.param(
            "from shop import far\ndef run(x, key=lambda far: far):\n    return far.f(x)\n",
            id="hidden in a lambda only",
        ),
        pytest.param(
            "from shop import far\nKINDS = []\ndef kind(f):\n    KINDS.append(f)\n    return f\n"
            "@kind\ndef first(x):\n    return far.f(x)\ndef run(x):\n    return KINDS[0](x)\n",
            id="registered by a decorator",
        ),
    ],
)  # fmt: skip
def test_no_change_is_missed_where_names_are_hard_to_follow(tmp_path: Path, main: str) -> None:
    files = {
        "main": main,
        "face": "from shop.far import *\n",
        "far": "def f(x):\n    return x\n",
    }
    assert behind(tmp_path, files) == behind(tmp_path, changed("far", "x\n", "x  # y\n", files))
    assert behind(tmp_path, files) != behind(tmp_path, changed("far", "n x", "n x + 1", files))


def test_a_name_of_the_function_is_not_the_modules(tmp_path: Path) -> None:
    files = {
        "main": "from shop import far\ndef run(far):\n    return [far.f(x) for x in far]\n",
        "far": "def f(x):\n    return x\n",
    }
    assert behind(tmp_path, files) == behind(tmp_path, changed("far", "n x", "n x + 1", files))


def test_what_has_no_effect_is_not_looked_into(tmp_path: Path) -> None:
    without = frozenset({"shop.prices", "shop.texts"})
    before = behind(tmp_path, SHOP, without=without)
    for module, old, new in (
        ("prices", "RATE = 0.2", "RATE = 0.3"),
        ("texts/cleaning", "text.strip()", "text"),
        ("texts/__init__", "from", "print(1)\nfrom"),
    ):
        assert behind(tmp_path, changed(module, old, new), without=without) == before
    assert behind(tmp_path, changed("main", "LIMIT = 10", "LIMIT = 1"), without=without) != before


def test_packages_are_those_that_reached_definitions_use(tmp_path: Path) -> None:
    assert behind(tmp_path, SHOP).packages == frozenset()
    assert behind(tmp_path, SHOP, "main.late").packages == {"re", "numpy"}
