"""Synthetic duplicate clusters for report tests."""

from __future__ import annotations

from data_pipeline.build.duplicate_samples import Cluster, Member

HOSTILE = (
    "</pre></details><script>document.title = 'owned'</script>"
    "<img src=x onerror=\"document.title='owned'\"> {{ 7 * 7 }} {% raw %} &amp; "
    "nul:\x00 escape:\x1b bell:\x07 override:\u202e desrever mark:\ufeff "
    "שלום עולם مرحبا بالعالم Z͑ͫ̓ͪ̂ͫ̽͏̴̙̤̞͉͚a̴̵l̶g̵o 👩‍👩‍👧‍👦 "
)
_FOREST = (
    "Old forests store far more carbon than young plantations do. Over the last forty years the "
    "group measured every trunk on eleven plots, and the plots that nobody had touched since 1890 "
    "held twice as much wood per hectare as those that were replanted after the war. The soil "
    "below them is deeper, too, and stays moist in dry summers. "
)
_RECIPE = (
    "For the dough, rub the cold butter into the flour, add the water by the spoon, and let it "
    "rest for an hour. Roll it out thin, lay it into the tin, and prick it with a fork. Bake for "
    "twelve minutes at 200 degrees before the filling goes in. "
)


def sample_clusters() -> tuple[Cluster, ...]:
    crawl, other = "CC-MAIN-2019-30/00017.warc.wet.gz", "en/c4-train.00211-of-01024.json.gz"
    forest = Member(
        "c4",
        "5d0c5b7e62f14c318ad0ffb1c2a97d20",
        other,
        1_902,
        "https://example.org/forests",
        _FOREST * 3,
        9_120,
    )
    edited = (_FOREST * 3).replace("forty", "thirty").replace("eleven plots", "twelve plots")
    recipe = Member(
        "common_crawl",
        "aa0c5b7e62f14c318ad0ffb1c2a97d21",
        crawl,
        77,
        "https://kitchen.example/tart?page=1",
        _RECIPE * 2,
        2_048,
    )
    return (
        Cluster(
            "near_duplicate",
            forest,
            (
                Member(
                    "common_crawl",
                    "5d0c5b7e62f14c318ad0ffb1c2a97d22",
                    crawl,
                    2_210,
                    "https://mirror.example/old-forests-store-carbon?utm=feed",
                    edited,
                    9_188,
                    0.913,
                ),
                Member(
                    "common_crawl",
                    "5d0c5b7e62f14c318ad0ffb1c2a97d23",
                    crawl,
                    90_412,
                    "https://news.example/2019/07/forests",
                    "Read more\n" + edited + "Share this on all networks.",
                    9_301,
                    0.874,
                ),
            ),
            7,
        ),
        _hostile_cluster(),
        _exact_cluster(recipe),
    )


def _exact_cluster(recipe: Member) -> Cluster:
    return Cluster(
        "exact",
        recipe,
        (
            Member(
                "common_crawl",
                "aa0c5b7e62f14c318ad0ffb1c2a97d21",
                "CC-MAIN-2020-05/00002.warc.wet.gz",
                15,
                "https://kitchen.example/tart?page=2",
                _RECIPE * 2,
                2_048,
                1.0,
            ),
        ),
        1,
    )


def _hostile_cluster() -> Cluster:
    return Cluster(
        "near_duplicate",
        Member(
            "stack_exchange",
            "<b>id</b>",
            "a</article>.7z",
            None,
            "javascript:alert(1)",
            HOSTILE,
            300,
        ),
        (
            Member(
                "stack_exchange",
                "bad05b7e62f14c318ad0ffb1c2a97d25",
                "a.7z",
                3,
                None,
                HOSTILE + " <script>more()</script>",
                310,
                0.951,
            ),
        ),
        1,
    )
