# SPDX-License-Identifier: Apache-2.0
"""Newer kernels: a parent with one, its enclave with another. All other tests: NITROHB_KERNEL."""

import json
from pathlib import Path

from nitrohb.remedies import LOCAL_ADVICE

from .machines import NITROHB, Device, Guest, Parent, hybrid
from .parts import NEWER, Parts, parts

# Enters a vsock namespace that is local, and becomes a Python with the arguments.
LOCALLY = """
import ctypes, os, sys
CLONE_NEWNET = 0x40000000
unshare = ctypes.CDLL(None).unshare
unshare(CLONE_NEWNET)
with open("/proc/sys/net/vsock/child_ns_mode", "w") as mode:
    mode.write("local")
unshare(CLONE_NEWNET)
os.execv(sys.executable, [sys.executable, *sys.argv[1:]])
"""


def test_an_enclave_reaches_the_global_vsock_namespace_of_its_parent(tmp_path: Path) -> None:
    older, newer = (Parts(parts().directory, suite) for suite in NEWER)
    enclave = hybrid(16)
    with Device(newer, tmp_path, hybrid(Parent.CID), enclave) as device:
        device.prepare(Parent.CID)
        with Parent(newer, tmp_path) as parent:
            local = parent.start("-c", LOCALLY, *NITROHB, "serve", "--keep", "--format", "json")
            local.await_event("listening")
            reason, remedy = LOCAL_ADVICE
            warning = json.loads(local.err.await_line("").text)
            assert warning["message"] == f"vsock::9000: {reason}\n{remedy}"
            device.prepare(enclave.cid)
            with parent.nitrohb() as server, Guest(older, tmp_path, enclave) as guest:
                assert guest.outcome() == "boot: echoed"
                assert server.ends() == 0
                (beat,) = server.events("heartbeat")
                assert (beat["cid"], beat["echoed"]) == (enclave.cid, True)
                assert server.err.lines == []
            assert local.events("connected") == []
            doctor = parent.start("-c", LOCALLY, *NITROHB, "doctor", "--format", "json")
            doctor.ends()
            found = json.loads("".join(line.text for line in doctor.out.lines))["checks"]
            (reach,) = (check for check in found if check["name"] == "reach")
            assert (reach["evidence"], reach["remedy"]) == (reason, remedy)
