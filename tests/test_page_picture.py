# SPDX-License-Identifier: Apache-2.0
"""The README's picture of the live page."""

from deploy.packaging.page_picture import PICTURE, digest


def test_it_is_up_to_date() -> None:
    assert digest().encode() in PICTURE.read_bytes(), "run: nox -s browser -- --write"
