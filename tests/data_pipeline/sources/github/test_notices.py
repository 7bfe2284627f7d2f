"""Notices at the head of source files: what goes, and above all what stays."""

import textwrap

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data_pipeline.document import Document
from data_pipeline.sources.github.notices import file_name, remove_notices, without_notices

APACHE = textwrap.dedent(
    """\
    Copyright 2020 The Example Authors. All rights reserved.

    Licensed under the Apache License, Version 2.0 (the "License");
    you may not use this file except in compliance with the License.

        https://www.apache.org/licenses/LICENSE-2.0

    Unless required by applicable law or agreed to in writing, software is
    distributed on an "AS IS" BASIS, WITHOUT WARRANTIES OF ANY KIND.
    """
)


def commented(text: str, mark: str) -> str:
    return "".join(f"{mark} {line}".rstrip() + "\n" for line in text.splitlines())


def block(text: str, opened: str, line: str, closed: str) -> str:
    return f"{opened}\n" + commented(text, line) + f"{closed}\n"


# (file name, text): nothing of it may go.
KEPT = {
    "includes": ("a.c", "#include <stdio.h>\n#define N 3\n\nint x;\n"),
    "shebang": ("run", "#!/usr/bin/env python\nimport os\n"),
    "shebang, encoding, description": (
        "a.py",
        "#!/usr/bin/python\n# -*- coding: utf-8 -*-\n# Sums two numbers.\nimport os\n",
    ),
    "build tags": ("a.go", "//go:build linux\n// +build linux\n\npackage main\n"),
    "SQL comments": ("a.sql", "-- users and their orders\n-- by day\nSELECT 1;\n"),
    "README heading": ("README.md", "# My Project\n\n## Install\n\npip install x\n"),
    "README's license section": ("README.md", "# Copyright 2020 me\n\nLicensed under MIT.\n"),
    "comments only": ("a.py", "# nothing here yet\n#\n# but this\n"),
    "docstring": ("a.py", '"""Sums.\n\nAdds two numbers."""\n\ndef f(): ...\n'),
    "docstring about licenses": ("a.py", '"""Finds the license of a package."""\n'),
    "a word in passing": ("a.js", "// Draws the copyright sign of a page.\nf();\n"),
    "a block that is no notice": ("a.c", "/* A parser. */\nint x;\n"),
    "notice after code": ("a.js", "f();\n// Copyright 2020 me\n"),
    "string that is no comment": ("a.py", 'NOTICE = """\nCopyright 2020 me\n"""\n'),
    "code after the comment": ("a.c", "/* Copyright 2020 me */ int x;\n"),
    "unclosed comment": ("a.c", "/* Copyright 2020 me\nint x;\n"),
    "expression of a string": ("a.py", '"""Copyright 2020 me""".strip()\n'),
    "unknown kind, macro": ("a.xyz", '#define OWNER "Copyright 2020 me"\n'),
    "lisp in a C file": ("a.c", "; Copyright 2020 me\n"),
    "nothing": ("a.py", ""),
    "blank lines": ("a.py", "\n\nx = 1\n"),
    "directive": ("a.rst", ".. note:: Copyright 2020 me\n\n   MIT license\n\nText.\n"),
    "target": ("a.rst", ".. _copyright: https://example.org/licenses/\n\nText.\n"),
    "comment of restructured text": ("a.rst", ".. A remark\n   of two lines.\n\nText.\n"),
    "restructured text": ("a.rst", "Copyright 2020\n==============\n"),
}


@pytest.mark.parametrize("case", KEPT)
def test_what_is_no_notice_stays(case: str) -> None:
    name, text = KEPT[case]
    assert remove_notices(text, name) == (text, "")


# (file name, text, what is left)
CLEANED = {
    "hash": ("a.py", commented(APACHE, "#") + "\nimport os\n", "import os\n"),
    "slashes": ("a.go", commented(APACHE, "//") + "\npackage a\n", "package a\n"),
    "dashes": ("a.sql", commented(APACHE, "--") + "\nSELECT 1;\n", "SELECT 1;\n"),
    "four dashes": ("a.lua", commented(APACHE, "----") + "f()\n", "f()\n"),
    "semicolons": ("a.el", commented(APACHE, ";;") + "\n(f)\n", "(f)\n"),
    "per cent": ("a.erl", commented(APACHE, "%%") + "\n-module(a).\n", "-module(a).\n"),
    "block": ("a.java", block(APACHE, "/*", " *", " */") + "class A {}\n", "class A {}\n"),
    "doc block": ("a.js", block(APACHE, "/**", " *", " **/") + "\nf();\n", "f();\n"),
    "bare block": ("a.css", f"/*\n{APACHE}*/\n\na {{}}\n", "a {}\n"),
    "markup": ("a.html", f"<!--\n{APACHE}-->\n<p>\n", "<p>\n"),
    "doctype": ("a.html", f"<!DOCTYPE html>\n<!--\n{APACHE}-->\n<p>\n", "<!DOCTYPE html>\n<p>\n"),
    "ML": ("a.ml", f"(*\n{APACHE}*)\nlet x = 1\n", "let x = 1\n"),
    "Pascal": ("a.pas", f"{{\n{APACHE}}}\nunit a;\n", "unit a;\n"),
    "Haskell": ("a.hs", f"{{-\n{APACHE}-}}\nmodule A where\n", "module A where\n"),
    "Batch": ("a.bat", "@echo off\nREM Copyright 2020 me\ndir\n", "@echo off\ndir\n"),
    "Fortran": ("a.f90", "! Copyright 2020 me\nprogram a\n", "program a\n"),
    "D": ("a.d", f"/+\n{APACHE}+/\nmodule a;\n", "module a;\n"),
    "PHP": (
        "a.php",
        "<?php\n" + block(APACHE, "/*", " *", " */") + "\nf();\n",
        "<?php\n\nf();\n",
    ),
    "Rust's own, over lines": (
        "a.rs",
        "// Copyright 2020 The Rust Project Developers. See the COPYRIGHT\n"
        "// file at the top-level directory of this distribution and at\n"
        "// http://rust-lang.org/COPYRIGHT.\n//\n"
        "// Licensed under the Apache License, Version 2.0 <LICENSE-APACHE or\n"
        "// the MIT license <LICENSE-MIT>, at your option.\n\n//! A crate.\n",
        "//! A crate.\n",
    ),
    "what NetBeans writes": (
        "A.java",
        "/*\n * To change this license header, choose License Headers in Project Properties.\n"
        " * To change this template file, choose Tools | Templates\n"
        " * and open the template in the editor.\n */\npackage a;\n",
        "package a;\n",
    ),
    "restructured text": (
        "a.rst",
        ".. Copyright 2020 me\n   All rights reserved\n\n   MIT license\n\n..\n\nTitle\n=====\n",
        "..\n\nTitle\n=====\n",
    ),
    "restructured text, remark": (
        "a.rst",
        "..\n  Copyright 2020 me\n\n  A remark.\n\nText.\n",
        "..\n  A remark.\n\nText.\n",
    ),
    "MATLAB": ("a.m", "% Copyright 2020 me\n\nfunction a\n", "function a\n"),
    "unknown kind": ("a.xyz", commented(APACHE, "#") + "x\n", "x\n"),
    "no kind": ("Makefile", commented(APACHE, "#") + "\nall:\n", "all:\n"),
    "shebang and encoding stay": (
        "a.py",
        "#!/usr/bin/python\n# coding: utf-8\n# Copyright 2020 me\n\nimport os\n",
        "#!/usr/bin/python\n# coding: utf-8\n\nimport os\n",
    ),
    "build tag stays": (
        "a.go",
        "//go:build linux\n\n// Copyright 2020 me\n\npackage a\n",
        "//go:build linux\n\npackage a\n",
    ),
    "directive after the notice stays": (
        "a.pyx",
        "# Copyright 2020 me\n# distutils: language = c++\nimport os\n",
        "# distutils: language = c++\nimport os\n",
    ),
    "include guard": (
        "a.h",
        "#ifndef A_H\n#define A_H\n/* Copyright 2020 me */\nint x;\n",
        "#ifndef A_H\n#define A_H\nint x;\n",
    ),
    "after the package line": (
        "A.java",
        "package a;\n\n/* Copyright 2020 me */\n\nclass A {}\n",
        "package a;\n\nclass A {}\n",
    ),
    # A parser that looks at the first comment only would take this one and stop.
    "after a comment that is none": (
        "a.cc",
        "/* A parser. */\n\n// Copyright 2020 me\n// MIT license\n\nint x;\n",
        "/* A parser. */\n\nint x;\n",
    ),
    "description before it stays": (
        "a.c",
        "/*\n * a.c - sums numbers\n *\n * Copyright 2020 me\n */\nint x;\n",
        "/*\n * a.c - sums numbers\n */\nint x;\n",
    ),
    "description after it stays": (
        "a.py",
        commented(APACHE, "#") + "#\n# Sums two numbers.\nimport os\n",
        "# Sums two numbers.\nimport os\n",
    ),
    "description around it stays": (
        "a.c",
        "/* Sums.\n *\n * Copyright 2020 me\n *\n * Fast. */\nint x;\n",
        "/* Sums.\n *\n * Fast. */\nint x;\n",
    ),
    "first line of the same paragraph stays": (
        "a.py",
        "# Taken from elsewhere\n# Copyright 2020 me\nimport os\n",
        "# Taken from elsewhere\nimport os\n",
    ),
    "author stays": (
        "a.py",
        "# Copyright 2020 me\n# Author: me\n# Sums.\nimport os\n",
        "# Author: me\n# Sums.\nimport os\n",
    ),
    "Rust's documentation stays": (
        "a.rs",
        "// Copyright 2020 me\n\n//! Sums.\nfn f() {}\n",
        "//! Sums.\nfn f() {}\n",
    ),
    "docstring with a notice": (
        "a.py",
        '"""Sums two numbers.\n\nCopyright 2020 me\nMIT license\n"""\nimport os\n',
        '"""Sums two numbers.\n"""\nimport os\n',
    ),
    "docstring that is a notice": (
        "a.py",
        '"""\nCopyright 2020 me\n"""\nimport os\n',
        "import os\n",
    ),
    "docstring after a notice": (
        "a.py",
        commented(APACHE, "#") + '"""Sums."""\n',
        '"""Sums."""\n',
    ),
    "docstring that begins with a notice": (
        "a.py",
        '"""Copyright 2020 me\n\nSums."""\n',
        '"""\nSums."""\n',
    ),
    "that it was generated stays": (
        "a.go",
        "// Copyright 2020 me\n// Code generated by x. DO NOT EDIT.\n// MIT license\npackage a\n",
        "// Code generated by x. DO NOT EDIT.\npackage a\n",
    ),
    "SPDX": (
        "a.c",
        "// SPDX-License-Identifier: MIT\n// SPDX-FileCopyrightText: 2020 me\n\nint x;\n",
        "int x;\n",
    ),
    "boxed": ("a.py", "#####\n# Copyright 2020 me\n#####\nimport os\n", "import os\n"),
    "box of a description stays": (
        "a.py",
        "#####\n# Sums.\n#\n# Copyright 2020 me\n#####\nimport os\n",
        "#####\n# Sums.\n#####\nimport os\n",
    ),
    "two notices": (
        "a.c",
        "/* Copyright 2020 me */\n/* Copyright 2021 you */\n\nint x;\n",
        "int x;\n",
    ),
    "nothing but a notice": ("__init__.py", commented(APACHE, "#"), ""),
    "sign and entity": ("a.js", "/* © 2020 me */\n/* &copy; you */\nf();\n", "f();\n"),
}


@pytest.mark.parametrize("case", CLEANED)
def test_notice_goes_and_nothing_else(case: str) -> None:
    name, text, expected = CLEANED[case]
    left, notices = remove_notices(text, name)
    assert left == expected
    assert any(word in notices for word in ("2020", "SPDX", "license header"))


def test_files_that_differ_in_their_notice_only_become_equal() -> None:
    body = "\nimport os\n\n\ndef f():\n    return os\n"
    heads = (commented(APACHE, "#"), "# Copyright 2019 other\n# MIT license\n", "")
    texts = {remove_notices(head + body, "a.py")[0].strip() for head in heads}
    assert texts == {body.strip()}


@pytest.mark.parametrize(
    ("license", "notice", "expected"),
    [
        ("MIT", "// SPDX-License-Identifier: GPL-2.0-only", "MIT AND GPL"),
        ("MIT", "// GNU Lesser General Public License version 2.1", "MIT AND LGPL"),
        ("MIT", "// This program is free software: GNU General Public License", "MIT AND GPL"),
        ("MIT", "// Licensed under the MIT license.", "MIT"),
        ("Apache-2.0", "// Licensed under the MIT license.", "Apache-2.0 AND MIT"),
        ("Apache-2.0", "// SPDX-License-Identifier: Apache-2.0", "Apache-2.0"),
        ("MIT", "// Copyright 2020 me", "MIT"),
        ("LGPL", "// SPDX-License-Identifier: GPL-3.0", "LGPL AND GPL"),
        (None, "// Licensed under the MIT license.", None),
        # Of a choice, the project has chosen.
        ("MIT", "// Dual licensed under the MIT license and the GPL.", "MIT"),
        ("MIT", "// SPDX-License-Identifier: (Apache-2.0 OR MIT)", "MIT"),
        (
            "MIT",
            "// SPDX-License-Identifier: GPL-2.0 OR BSD-3-Clause",
            "MIT AND (GPL-2.0 OR BSD-3-Clause)",
        ),
        ("MIT", "// Unauthorized copying is prohibited.", "MIT AND LicenseRef-Proprietary"),
    ],
)
def test_license_in_the_notice_counts_besides_the_projects(
    license: str | None, notice: str, expected: str | None
) -> None:
    document = Document(f"{notice}\nint x;\n", "a.c", license=license)
    edited = without_notices(document)
    assert (edited.text, edited.license) == ("int x;\n", expected)


def test_file_name_is_that_of_the_address() -> None:
    url = "https://github.com/a/b/blob/HEAD/src/a%20b.py"
    assert file_name(Document("", "rows.jsonl", url=url)) == "a b.py"
    assert file_name(Document("", "src/c.py")) == "c.py"


LINES = st.sampled_from(
    [
        *("# Copyright 2020 me", "// MIT license", "/*", " * words", " */", '"""', "x = 1", ""),
        *("#", "<!--", "-->", "--[[", "]]", "{", "}", "#!/bin/sh", "  # licensed", "# under the"),
        *(
            "(* Copyright *)",
            "* All rights reserved",
            "=begin",
            "=end",
            "\ufeff©",
            "//",
            "...",
            ".. (c) 2020",
            "  b",
        ),
    ]
)


@settings(max_examples=200, deadline=None)
@given(
    st.lists(LINES, max_size=12).map("\n".join),
    st.sampled_from(
        ["a.py", "a.c", "a.lua", "a.rb", "a.html", "a.pas", "a.php", "a", "a.md", "a.rst"]
    ),
)
def test_never_raises_and_again_changes_nothing(text: str, name: str) -> None:
    left, _ = remove_notices(text, name)
    assert remove_notices(left, name) == (left, "")
    # What stays, stays in order: every line left is a line of the text, or the end of one.
    lines = iter(text.split("\n"))
    assert all(any(line in other for other in lines) for line in left.split("\n"))


@pytest.mark.parametrize(
    "line", ["#" * 200_000, "/*" + "*" * 200_000, "# " + "copyright " * 20_000]
)
def test_long_lines_take_no_long_time(line: str) -> None:
    text = f"{line}\n" * 5
    assert len(remove_notices(text, "a.xyz")[0]) <= len(text)
