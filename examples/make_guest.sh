#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# Make a guest in the current directory, an empty one: Debian's cloud kernel (vmlinuz), and an
# initramfs (enclave.cpio) with the vsock modules and an init that sends a heartbeat to CID 3, or as
# hb_cid= of the kernel command line says. Needs cpio, xz-utils, gcc and libc6-dev.
# For another architecture: dpkg --add-architecture arm64 && apt-get update, as root, and then
# ARCH=arm64 CC=aarch64-linux-gnu-gcc make_guest.sh
set -eu
init=$(dirname "$0")/../tests/enclave/init.c

packages=$(apt-cache depends --recurse --important "linux-image-cloud-${ARCH:-amd64}" |
    grep -E '^linux-(image|binary|modules)-[0-9]')
# shellcheck disable=SC2086  # these are several words
apt-get download $packages
for package in linux-*.deb; do dpkg-deb -x "$package" kernel; done
find kernel -name 'vmlinuz*' -exec cp {} vmlinuz \;

mkdir -p initramfs/modules
"${CC:-cc}" -static -Os -o initramfs/init "$init"
n=10
for module in virtio_ring virtio virtio_pci_legacy_dev virtio_pci_modern_dev virtio_pci virtio_mmio \
    vsock vmw_vsock_virtio_transport_common vmw_vsock_virtio_transport
do
    # A module that is built in has no file. Some kernels compress the others.
    find kernel -name "$module.ko*" -exec xzcat --force {} \; > "initramfs/modules/$n-$module.ko"
    [ -s "initramfs/modules/$n-$module.ko" ] || rm "initramfs/modules/$n-$module.ko"
    n=$((n + 1))
done
(cd initramfs && find . | cpio --create --format newc --quiet) > enclave.cpio
