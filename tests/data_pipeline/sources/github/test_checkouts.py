"""Code trees: what is read, what is ignored and why, and whose license holds."""

import os
import zipfile
from collections import Counter
from functools import partial
from pathlib import Path

import pytest

from data_pipeline.document import Document, Rejected
from data_pipeline.files.inputs import InputFile, Inputs
from data_pipeline.sources.github import archived_checkouts, checkouts

MIT = "Permission is hereby granted, free of charge, to any person obtaining a copy"
APACHE = "Apache License Version 2.0"
SUFFIXES = frozenset({".py", ".md"})
tree_inputs = partial(checkouts.inputs, suffixes=SUFFIXES, max_file_bytes=1000)


def write(root: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return root


def reasons(found: Inputs) -> dict[str, str]:
    return {item.source_file: item.reason for item in found.ignored}


def test_every_file_is_read_or_ignored_for_a_reason(tmp_path: Path) -> None:
    root = write(
        tmp_path / "tree",
        {
            "a.py": "a",
            "docs/b.MD": "b",
            "licenses.py": "code, in spite of its name",
            "LICENSE": MIT,
            "c.bin": "c",
            "big.py": "x" * 1001,
            "x_pb2.py": "x",
            "__editable___mine_finder.py": "x",
            "__pycache__/a.py": "x",
            "deep/_vendor/other/v.py": "x",
            ".git/config.py": "x",
        },
    )
    (root / "link.py").symlink_to(root / "a.py")
    (root / "loop").symlink_to(root)
    os.mkfifo(root / "pipe.py")
    found = tree_inputs(root)
    assert [file.source_file for file in found.files] == ["a.py", "docs/b.MD", "licenses.py"]
    assert reasons(found) == {
        "LICENSE": "license_file",
        "c.bin": "unknown_kind",
        "big.py": "too_large",
        "x_pb2.py": "not_hand_written",
        "__editable___mine_finder.py": "not_hand_written",
        "__pycache__": "skipped_folder",
        "deep/_vendor": "skipped_folder",
        ".git": "hidden",
        "link.py": "symlink",
        "loop": "symlink",
        "pipe.py": "not_a_file",
    }


def test_license_of_a_checkout_is_the_nearest_file_upward(tmp_path: Path) -> None:
    root = write(
        tmp_path,
        {
            "LICENSE.txt": MIT,
            "a/b/c.py": "",
            "sub/COPYING": APACHE,
            "sub/deep/d.py": "",
            "odd/LICENSE": "All rights reserved",
            "odd/e.py": "",
            "two/LICENSE-MIT": MIT,
            "two/LICENSE-APACHE": APACHE,
            "two/f.py": "",
            "rails/MIT-LICENSE": MIT,
            "rails/g.py": "",
        },
    )
    licenses = {file.source_file: file.license for file in tree_inputs(root).files}
    assert licenses == {
        "a/b/c.py": "MIT",
        "sub/deep/d.py": "Apache-2.0",
        "odd/e.py": None,
        "two/f.py": "Apache-2.0 AND MIT",
        "rails/g.py": "MIT",
    }
    given = tree_inputs(root, license="PSF-2.0", title="Library").files[0]
    assert (given.license, given.title) == ("PSF-2.0", "Library")


def test_zip_members_without_a_name_cost_themselves_only(tmp_path: Path) -> None:
    path = tmp_path / "a.zip"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("p/LICENSE", MIT)
        archive.writestr("p/a.py", "x = 1")
        archive.writestr("q", "y")
    # The last name's length, in the archive's directory, is 0.
    data = bytearray(path.read_bytes())
    start = data.rindex(b"PK\x01\x02")
    data[start + 28] = 0
    del data[start + 46]
    data[-10:-6] = (int.from_bytes(data[-10:-6], "little") - 1).to_bytes(4, "little")
    path.write_bytes(data)
    with zipfile.ZipFile(path) as archive:
        assert archive.infolist()[-1].filename == ""
    file = InputFile(path, "a.zip", len(data), 0)
    items = list(
        archived_checkouts.read(
            file, kinds=frozenset({".py"}), max_file_bytes=1_000, skip_folders=frozenset()
        )
    )
    assert [item.text for item in items if isinstance(item, Document)] == ["x = 1"]


def test_license_unknown_without_any_file(tmp_path: Path) -> None:
    assert tree_inputs(write(tmp_path, {"a.py": "a"})).files[0].license is None


@pytest.fixture
def site_packages(tmp_path: Path) -> Path:
    return write(
        tmp_path,
        {
            "one.py": "1",
            "two/a.py": "2",
            'two/"odd", name.py': "3",
            "loose.py": "4",
            "one-1.0.dist-info/METADATA": "Name: one\nVersion: 1.0\nLicense-Expression: MIT\n\n",
            "one-1.0.dist-info/RECORD": "one.py,sha256=x,1\none-1.0.dist-info/METADATA,,\n",
            "two-2.0.dist-info/METADATA": "Name: two\nVersion: 2.0\nLicense: BSD\n\n",
            "two-2.0.dist-info/RECORD": 'two/a.py,,\n"two/""odd"", name.py",,\n',
            "two-2.0.dist-info/licenses/LICENSE": "Redistribution and use in source and binary "
            "forms: do not use the names to endorse or promote",
            "broken-3.dist-info/METADATA": "",
        },
    )


def test_packages_own_the_files_that_their_record_lists(site_packages: Path) -> None:
    files = {f.source_file: (f.title, f.license) for f in tree_inputs(site_packages).files}
    assert files == {
        "one.py": ("one 1.0", "MIT"),
        "two/a.py": ("two 2.0", "BSD-3-Clause"),
        'two/"odd", name.py': ("two 2.0", "BSD-3-Clause"),
        "loose.py": (None, None),
    }


def test_licenses_choose_before_reading(site_packages: Path) -> None:
    found = tree_inputs(site_packages, licenses=frozenset({"MIT"}))
    assert [file.source_file for file in found.files] == ["one.py"]
    assert Counter(reasons(found).values())["license_not_allowed"] == 3


def test_budget_is_shared_by_packages_and_documents_come_first(tmp_path: Path) -> None:
    files = {f"big/{i}.py": "x" * 100 for i in range(20)}
    files |= {"big/README.md": "x" * 150, "small/a.py": "x" * 50}
    for name in ("big", "small"):
        files[f"{name}-1.dist-info/METADATA"] = f"Name: {name}\nVersion: 1\n\n"
        files[f"{name}-1.dist-info/RECORD"] = "\n".join(f"{f},," for f in files if f[0] == name[0])
    found = tree_inputs(write(tmp_path, files), max_total_bytes=500)
    names = [file.source_file for file in found.files]
    assert "small/a.py" in names
    assert "big/README.md" in names
    # 500 bytes, less the small package's 50 and the README's 150: three more files of 100.
    assert len(names) == 5
    assert len(names) + list(reasons(found).values()).count("over_budget") == 22
    assert found == tree_inputs(tmp_path, max_total_bytes=500)


@pytest.mark.parametrize(
    ("data", "result"),
    [
        ("naïve\r\n".encode(), "naïve\n"),
        (b"# -*- coding: latin-1 -*-\nna\xefve", "# -*- coding: latin-1 -*-\nnaïve"),
        (b"", ""),
        (b"a\0b", "binary"),
    ],
)
def test_read(tmp_path: Path, data: bytes, result: str) -> None:
    (tmp_path / "a.py").write_bytes(data)
    (item,) = checkouts.read(tree_inputs(tmp_path).files[0])
    assert (item.text if isinstance(item, Document) else item.reason) == result


def test_file_gone_since_it_was_found(tmp_path: Path) -> None:
    found = tree_inputs(write(tmp_path, {"a.py": "a"}))
    (tmp_path / "a.py").unlink()
    (item,) = checkouts.read(found.files[0])
    assert isinstance(item, Rejected)
    assert item.reason == "unreadable"
