#!/bin/sh
# Sets up the root in directory $1, which mmdebstrap has just finished, and writes kernel, initial RAM disk and a disk
# image of it to $WEIR_OUTPUT.
set -eu
root=$1

# Whoever has the console may be root.
chroot "$root" passwd --quiet --delete root
echo debian > "$root/etc/hostname"
printf '127.0.0.1 localhost\n127.0.1.1 debian\n' > "$root/etc/hosts"
echo '/dev/xvda / ext4 errors=remount-ro 0 1' > "$root/etc/fstab"

# An address by DHCP for every interface that turns up; paravirtual ones are called enX0, enX1 and so on.
{
    printf 'auto lo\niface lo inet loopback\n'
    for number in 0 1 2 3 4 5 6 7; do
        printf '\nallow-hotplug enX%s\niface enX%s inet dhcp\n' "$number" "$number"
    done
} > "$root/etc/network/interfaces"

# The sources where one looks for them. What is left of the making goes: apt's settings and lists, and this system's name
# servers.
mv "$root"/etc/apt/sources.list.d/0000*.list "$root/etc/apt/sources.list"
rm -f "$root/etc/apt/apt.conf.d/99mmdebstrap" "$root/etc/resolv.conf"
rm -rf "$root"/var/lib/apt/lists/* "$root"/var/cache/apt/*

cp -L "$root/vmlinuz" "$root/initrd.img" "$WEIR_OUTPUT/"
# Without what is mounted below the root, such as /proc: a mount of its own shows only the files that are its own.
PATH=$PATH:/usr/sbin:/sbin unshare --mount --propagation private sh -eu -c '
    mount --bind "$1" /mnt
    mke2fs -q -t ext4 -L root -d /mnt "$2" "$3" > /dev/null
' sh "$root" "$WEIR_OUTPUT/disk.img" "$WEIR_DISK_SIZE"
chmod a+r "$WEIR_OUTPUT"/*
