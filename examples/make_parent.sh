#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# Make parent.cpio where make_guest.sh has run: the initramfs of a guest that runs nitrohb serve
# --keep, with Debian's Python. Needs cpio and a Python with pip.
set -eu
mkdir -p debs parent/nitrohb parent/proc parent/sys parent/dev parent/tmp
for directory in bin lib lib64 sbin; do  # as in Debian; some packages have files in /bin
    mkdir -p "parent/usr/$directory"
    ln -sfn "usr/$directory" "parent/$directory"
done

packages=$(apt-cache depends --recurse --important python3-minimal libpython3-stdlib busybox-static |
    grep '^[a-z]' | sort -u)
# shellcheck disable=SC2086  # these are several words
(cd debs && apt-get download $packages)
for package in debs/*.deb; do
    dpkg-deb --fsys-tarfile "$package" | tar -x --keep-directory-symlink -C parent
done
rm -r parent/usr/share
python3 -m pip install -q --target parent/nitrohb "$(dirname "$0")/.."
cp -r initramfs/modules parent

cat > parent/init <<'EOF'
#!/bin/busybox sh
/bin/busybox mount -t proc proc /proc
/bin/busybox mount -t sysfs sys /sys
/bin/busybox mount -t devtmpfs dev /dev
for module in /modules/*; do
    /bin/busybox insmod "$module"
done
export PATH=/usr/bin:/bin HOME=/tmp TERM=dumb PYTHONPATH=/nitrohb
exec python3 -m nitrohb serve --keep
EOF
chmod +x parent/init
(cd parent && find . | cpio --create --format newc --quiet) > parent.cpio
