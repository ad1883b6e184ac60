#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Boot an enclave image file (EIF) on this machine, and answer its heartbeat.

It needs QEMU, vhost-device-vsock and the kernel module vsock_loopback. The image connects to CID 3.
The device, vhost-device-vsock, forwards this to CID 1 of this machine, and this program listens
there. Without the module, use --vhost-user: a parent guest answers. The console of the guest is
stdout.

Exit codes: 124 at the time limit, 125 if QEMU or the device ends before the heartbeat, 1 or 2 if
this program cannot start, 128 + n after signal n, and otherwise the exit code of QEMU or the
device, whichever ends first. With --vhost-user, this program sees no heartbeat: it has no time
limit, and never exits with 124 or 125.
"""

import argparse
import errno
import json
import shutil
import signal
import struct
import sys
import tempfile
import zlib
from collections.abc import AsyncIterator, Sequence
from pathlib import Path

import trio

import nitrohb

# Big-endian. Header: magic, version, flags, memory, CPUs, reserved, number of sections, 32 offsets,
# 32 sizes, reserved, CRC-32. A section: type, flags, size, data.
HEADER, SECTION = struct.Struct(">4sHHQQHH32Q32QII"), struct.Struct(">HHQ")
KERNEL, COMMAND_LINE, RAMDISK = 1, 2, 3
QEMU = """-nodefaults -no-user-config -no-reboot -display none -accel tcg -m {0}M
-object memory-backend-memfd,id=mem,size={0}M,share=on -chardev stdio,id=console
-global virtio-mmio.force-legacy=false -chardev socket,id=vsock,path=vhost.socket
-kernel kernel -initrd ramdisk -device vhost-user-vsock-"""
X86_64 = "qemu-system-x86_64 -cpu max -serial chardev:console -M "
Q35 = f"{X86_64} q35,memory-backend=mem {QEMU}pci,chardev=vsock"
MICROVM = f"{X86_64} microvm,acpi=off,memory-backend=mem {QEMU}device,chardev=vsock"
AARCH64 = f"""qemu-system-aarch64 -cpu neoverse-n1 -M virt,memory-backend=mem
{QEMU}device,chardev=vsock -device virtio-serial-device -device virtconsole,chardev=console"""
DEVICE = "vhost-device-vsock --vm guest-cid=16,socket=vhost.socket,forward-cid=1"
APT = "apt-get install --no-install-recommends qemu-system-arm qemu-system-x86"
NO_LOOPBACK = "Run modprobe vsock_loopback, or boot beside a parent guest: --vhost-user SOCKET."
CARGO = "cargo install vhost-device-vsock --version 0.3.0 --locked"


def read_eif(path: str) -> tuple[bool, int, dict[int, bytes]]:
    """Return whether an image is for aarch64, its memory in MiB, and its sections by type."""
    data = Path(path).read_bytes()
    if len(data) < HEADER.size or not data.startswith(b".eif"):
        raise ValueError(f"{path} is not an EIF")
    _, _, flags, memory, _, _, count, *table, _, checksum = HEADER.unpack_from(data)
    if zlib.crc32(data[HEADER.size :], zlib.crc32(data[: HEADER.size - 4])) != checksum:
        raise ValueError(f"{path} is damaged: its checksum is wrong")
    sections: dict[int, bytes] = {KERNEL: b"", COMMAND_LINE: b"", RAMDISK: b""}
    for offset in table[:count]:
        kind, _, size = SECTION.unpack_from(data, offset)
        sections[kind] = sections.get(kind, b"") + data[offset + SECTION.size :][:size]
    memory = max(memory, 4 * len(data))  # nitro-cli demands at least 4 times the size of the image
    return bool(flags & 1), memory >> 20, sections


def vmm(is_arm: bool, memory: int, command_line: str) -> list[str]:
    """Return the command that boots a kernel, and exits when the kernel panics."""
    words = [word for word in command_line.split() if not word.startswith("console=")]
    # The x86_64 kernel of AWS has no driver for virtio devices on PCI. Its command line says so.
    machine = AARCH64 if is_arm else MICROVM if "pci=off" in words else Q35
    # no_timer_check: on a busy machine, an x86 kernel can miss a timer tick, and panics.
    words += ["console=hvc0" if is_arm else "console=ttyS0", "panic=-1", "no_timer_check"]
    return [*machine.format(memory).split(), "-append", " ".join(words)]


class Boot:
    """One boot. The first task that calls end() decides how it ends."""

    def __init__(self, listeners: list[nitrohb.Listener], timeout: float) -> None:
        self.listen, self.timeout = listeners, timeout  # no listeners with --vhost-user
        self.seen: list[str] = []
        self.code = 0

    def end(self, code: int, why: str) -> None:
        if not self.nursery.cancel_scope.cancel_called:
            self.code = code if code >= 0 else 128 - code
            print(f"boot_eif: {why}", file=sys.stderr)
        self.nursery.cancel_scope.cancel()

    def show(self, event: nitrohb.Event) -> None:
        print(json.dumps(event.to_json()), file=sys.stderr)
        self.seen.append(event.name)

    async def end_on_signal(self, signals: AsyncIterator[int]) -> None:
        async for number in signals:
            self.end(128 + number, signal.Signals(number).name)

    async def start(self, command: Sequence[str], directory: str) -> None:
        # A new session does not receive Ctrl-C from the terminal.
        done = await trio.run_process(command, cwd=directory, check=False, start_new_session=True)
        code = done.returncode if "heartbeat" in self.seen or not self.listen else 125
        self.end(code, f"{command[0]} ended with status {done.returncode}")

    async def answer(self, task_status: trio.TaskStatus[nitrohb.HeartbeatServer]) -> None:
        with trio.move_on_after(self.timeout) as limit:
            await nitrohb.serve_heartbeat(*self.listen, on_event=self.show, task_status=task_status)
        if limit.cancelled_caught:
            self.end(124, f"no heartbeat within {self.timeout:g} s")

    async def run(self, sections: dict[int, bytes], qemu: list[str], device: str | None) -> int:
        catch = trio.open_signal_receiver(signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
        with catch as signals, tempfile.TemporaryDirectory() as here:
            await trio.Path(here, "kernel").write_bytes(sections[KERNEL])
            await trio.Path(here, "ramdisk").write_bytes(sections[RAMDISK])
            socket = trio.Path(here, "vhost.socket")
            async with trio.open_nursery() as self.nursery:
                self.nursery.start_soon(self.end_on_signal, signals)
                if device is None:
                    await self.nursery.start(self.answer)
                    self.nursery.start_soon(self.start, DEVICE.split(), here)
                    while not await socket.exists():  # noqa: ASYNC110 - the device does not report it
                        await trio.sleep(0.01)
                else:
                    await socket.symlink_to(await trio.Path(device).absolute())
                self.nursery.start_soon(self.start, qemu, here)
        if self.listen and "heartbeat" not in self.seen:
            print("boot_eif: what came instead:", *self.seen[1:] or ["nothing"], file=sys.stderr)
        return self.code


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("image", metavar="IMAGE.eif")
    parser.add_argument("--timeout", type=float, metavar="SEC", help="default: like nitro-cli")
    parser.add_argument("--vhost-user", metavar="SOCKET", help="of a device with a parent guest")
    args = parser.parse_args()
    if args.timeout is not None and not args.timeout > 0:
        parser.error("--timeout: give more than 0 seconds")
    try:
        is_arm, memory, sections = read_eif(args.image)
        if args.vhost_user and not Path(args.vhost_user).is_socket():
            raise ValueError(f"{args.vhost_user} is not a socket: start vhost-device-vsock first")
        listeners = [] if args.vhost_user else nitrohb.open_listeners(["vsock:1:9000"])
    except (OSError, ValueError) as error:
        parser.error(str(error))
    except nitrohb.ListenError as error:
        no_loopback = error.errno in (errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT)
        remedy = NO_LOOPBACK if no_loopback else error.remedy
        sys.exit(f"boot_eif: cannot listen on {error.address}: {error.reason}\n{remedy}")
    qemu = vmm(is_arm, memory, sections[COMMAND_LINE].decode())
    needed = {qemu[0]: APT} if args.vhost_user else {qemu[0]: APT, DEVICE.split()[0]: CARGO}
    for program, command in needed.items():
        if shutil.which(program) is None:
            sys.exit(f"boot_eif: {program} is not in PATH\nInstall it: {command}")
    size = sum(map(len, sections.values()))
    timeout = args.timeout or nitrohb.boot_timeout(eif_bytes=size, memory_mib=memory)
    return trio.run(Boot(listeners, timeout).run, sections, qemu, args.vhost_user)


if __name__ == "__main__":
    sys.exit(main())
