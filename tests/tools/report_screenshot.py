"""A picture of a report page: python -m tests.tools.report_screenshot report.html docs/report.png

Without a page, of the account in sample_account.py. --phone: as a phone shows it.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

from data_pipeline.report import page as report_page
from tests.support.browser import Browser
from tests.support.sample_account import sample_account


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("page", type=Path, nargs="?", help="report.html of a build")
    parser.add_argument("picture", type=Path, help="PNG file to write")
    parser.add_argument("--phone", action="store_true", help="390 pixels wide")
    parser.add_argument("--height", type=int, help="pixels from the top of the page")
    parser.add_argument("--dark", action="store_true")
    parser.add_argument("--at", default="", help="id of the section to begin with")
    parser.add_argument("--open", type=int, default=0, help="open the section's first such many")
    options = parser.parse_args()
    width, height = (390, 1500) if options.phone else (1200, 1500)
    with tempfile.TemporaryDirectory() as folder:
        page = options.page or Path(folder) / "report.html"
        if options.page is None:
            report_page.write(sample_account(), page)
        with Browser(Path(folder) / "profile", width, options.height or height) as browser:
            browser.open(page)
            if options.dark:
                browser.run("document.documentElement.dataset.theme = 'dark'")
            browser.run(
                "const s = document.querySelector('#' + (arguments[0] || 'flow'));"
                "[...s.querySelectorAll('details')].slice(0, arguments[1])"
                ".forEach(d => d.open = true);"
                "if (arguments[0]) s.scrollIntoView({behavior: 'instant'})",
                options.at,
                options.open,
            )
            browser.save_picture(options.picture)


if __name__ == "__main__":
    main()
