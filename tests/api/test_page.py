# SPDX-License-Identifier: Apache-2.0
"""The page, without a browser: what may load and run in it. (The rest is for a real Chromium.)"""

import base64
import hashlib
import re

from nitrohb.api.app import create_app
from nitrohb.api.backend import Backend

from .asgi import client_of


async def test_nothing_but_the_page_itself_may_run_in_it() -> None:
    async with client_of(create_app(Backend([]))) as client:
        page = await client.get("/")
    assert (page.status, page.headers["content-type"]) == (200, "text/html; charset=utf-8")
    text = page.body.decode()
    policy = dict(
        rule.split(" ", 1) for rule in page.headers["content-security-policy"].split("; ")
    )
    assert policy["default-src"] == policy["frame-ancestors"] == "'none'"
    assert policy["connect-src"] == "'self'"
    for tag in ("script", "style"):
        (content,) = re.findall(rf"<{tag}>(.*)</{tag}>", text, re.DOTALL)
        digest = base64.b64encode(hashlib.sha256(content.encode()).digest()).decode()
        assert policy[f"{tag}-src"] == f"'sha256-{digest}'"


async def test_it_needs_nothing_from_anywhere_else() -> None:
    async with client_of(create_app(Backend([]))) as client:
        text = (await client.get("/")).body.decode()
    assert not re.search(r"https?:|//[a-z]|<(?:script|style|a|img)[^>]* (?:src|on\w+)=", text)
    assert set(re.findall(r'href="([^"]*)"', text)) == {"data:,", "heartbeats", "readyz"}
    assert "innerHTML" not in text
