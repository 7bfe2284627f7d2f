"""Licenses as people write them, and SPDX expressions against a list."""

import email

import pytest

from data_pipeline.text.licenses import from_header, from_metadata, from_name, from_text, is_allowed

MIT = "Permission is hereby granted, free of charge, to any person\nobtaining a copy of this"
BSD2 = "Redistribution and use in source and binary forms, with or without\n modification"
BSD3 = BSD2 + " ... Neither the name of X may be used to endorse or promote products"
APACHE = "                  Apache License\n            Version 2.0, January 2004"


@pytest.mark.parametrize(
    ("name", "license"),
    [
        ("MIT", "MIT"),
        ("The MIT License (MIT)", "MIT"),
        ("MIT-CMU", "MIT-CMU"),
        ("Apache Software License 2.0", "Apache-2.0"),
        ("Apache 1.1", None),
        ("BSD", "BSD"),
        ("New BSD License", "BSD-3-Clause"),
        ("3-Clause BSD License", "BSD-3-Clause"),
        ("BSD 2-Clause", "BSD-2-Clause"),
        ("0BSD", "0BSD"),
        ("ISC License (ISCL)", "ISC"),
        ("PSF-2.0", "PSF-2.0"),
        ("Mozilla Public License 2.0 (MPL 2.0)", "MPL-2.0"),
        ("LGPLv3", "LGPL"),
        ("GNU Lesser General Public License v3", "LGPL"),
        ("GPL-3.0-only", "GPL"),
        ("MPL-2.0 AND MIT", "MPL-2.0 AND MIT"),
        ("MIT and BSD", "BSD AND MIT"),
        ("Proprietary", None),
        ("summit transmit", None),
        ("", None),
    ],
)
def test_from_name(name: str, license: str | None) -> None:
    assert from_name(name) == license


@pytest.mark.parametrize(
    ("text", "license"),
    [
        (MIT, "MIT"),
        (BSD2, "BSD-2-Clause"),
        (BSD3, "BSD-3-Clause"),
        (APACHE, "Apache-2.0"),
        (APACHE + "\n\n" + MIT, "Apache-2.0 AND MIT"),
        ("  Version 2.0, January 2004\n   http://www.apache.org/licenses/\n", "Apache-2.0"),
        ("GNU GENERAL PUBLIC LICENSE\n   Version 3, 29 June 2007", "GPL"),
        ("GNU LESSER GENERAL PUBLIC LICENSE\n   Version 3, 29 June 2007", "LGPL"),
        ("Mozilla Public License Version 2.0\n=====", "MPL-2.0"),
        ("PYTHON SOFTWARE FOUNDATION LICENSE VERSION 2\n---", "PSF-2.0"),
        ("All rights reserved.", None),
    ],
)
def test_from_text(text: str, license: str | None) -> None:
    assert from_text(text) == license


@pytest.mark.parametrize(
    ("notice", "license"),
    [
        ("Copyright 2020 me", None),
        ("SPDX-License-Identifier: MIT", "MIT"),
        ("SPDX-License-Identifier: (MIT OR Apache-2.0)", "(MIT OR Apache-2.0)"),
        ("SPDX-License-Identifier: GPL-2.0-or-later\nSPDX-License-Identifier: MIT", "GPL AND MIT"),
        ('Licensed under the Apache License, Version 2.0 (the "License")', "Apache-2.0"),
        ("The Apache Software License, Version 1.1", None),
        ("governed by a BSD-style\nlicense that can be found", "BSD"),
        (BSD3, "BSD-3-Clause"),
        ("This code is licensed under the new BSD license. " + BSD2, "BSD-2-Clause"),
        ("under the terms of the GNU General Public License as published by", "GPL"),
        ("under the terms of the GNU Lesser General Public License", "LGPL"),
        ("under the GNU Affero General Public License", "AGPL"),
        ("Dual licensed under the MIT license or the GPL", "GPL OR MIT"),
        ("Creative Commons Attribution", "CC"),
        ("Proprietary and confidential", "LicenseRef-Proprietary"),
        ("as the Massachusetts Institute of Technology (MIT) has it", None),
    ],
)
def test_from_header(notice: str, license: str | None) -> None:
    assert from_header(notice) == license


@pytest.mark.parametrize(
    ("metadata", "file", "license"),
    [
        ("License-Expression: MIT OR ISC\nLicense: GPL", "", "MIT OR ISC"),
        ("License: MIT", BSD3, "MIT"),
        ("License: BSD", BSD3, "BSD-3-Clause"),
        ("License: BSD", "", "BSD"),
        ("License: " + (MIT + " ").replace("\n", "\n  ") * 2, "", "MIT"),
        ("Classifier: License :: OSI Approved :: MIT License", "", "MIT"),
        ("Classifier: License :: OSI Approved :: BSD License", BSD2, "BSD-2-Clause"),
        ("Classifier: Topic :: MIT", "", None),
        ("Name: nothing", "All rights reserved", None),
    ],
)
def test_from_metadata(metadata: str, file: str, license: str | None) -> None:
    message = email.message_from_string(f"Metadata-Version: 2.4\n{metadata}\n\nbody")
    assert from_metadata(message, file) == license


@pytest.mark.parametrize(
    ("expression", "is_ok"),
    [
        ("MIT", True),
        ("GPL", False),
        (None, False),
        ("", False),
        ("MIT AND ISC", True),
        ("MIT AND GPL", False),
        ("MIT OR GPL", True),
        ("GPL OR LGPL", False),
        ("ISC WITH some-exception", True),
        ("GPL WITH some-exception", False),
        ("MIT AND (ISC OR GPL)", False),
        ("(MIT)", True),
    ],
)
def test_is_allowed(expression: str | None, is_ok: bool) -> None:
    assert is_allowed(expression, frozenset({"MIT", "ISC"})) is is_ok
