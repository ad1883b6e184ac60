#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# A hook of mmdebstrap: put Debian's kernel into the new tree ($1), and of its modules only vsock's;
# then pack the tree as /base.cpio.
# The package is not installed, because that would make an initramfs, which takes half a minute.
set -eu
export APT_CONFIG="$MMDEBSTRAP_APT_CONFIG"
cd "$1"/tmp
kernel=$(apt-cache depends linux-image-cloud-amd64 | sed -n 's/^ *Depends: //p')
apt-get -q download "$kernel"
mkdir kernel
dpkg-deb -x "$kernel"_*.deb kernel
release=$(basename kernel/lib/modules/*)
mv kernel/boot/vmlinuz-* ../boot/vmlinuz
from=kernel/lib/modules/$release
to=../lib/modules/$release
mkdir -p "$to/kernel/net"
mv "$from/kernel/net/vmw_vsock" "$to/kernel/net/"
mv "$from"/modules.order "$from"/modules.builtin* "$to/"
chroot "$1" depmod "$release"
rm -r kernel "$kernel"_*.deb
cd "$1"
find . -xdev ! -path ./base.cpio ! -path './var/lib/apt/lists/*' ! -path './var/cache/apt/*' |
    cpio --create --format newc --quiet > base.cpio
