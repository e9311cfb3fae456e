#!/bin/busybox sh
# Domain 0's first program: loads the drivers, starts Xen's daemons, and executes the lines that are typed, each of the
# form "NUMBER COMMAND". What a command prints ends with a line "@end NUMBER STATUS".
/bin/busybox --install -s /bin
export PATH=/bin:/usr/bin
mount -t proc proc /proc; mount -t sysfs sys /sys; mount -t devtmpfs dev /dev; mount -t tmpfs tmp /tmp
mkdir /dev/pts; mount -t devpts pts /dev/pts
exec > /dev/hvc0 2>&1 < /dev/hvc0
stty -echo
ln -s /proc/self/fd /dev/fd; ln -s /proc/self/fd/0 /dev/stdin; ln -s /proc/self/fd/1 /dev/stdout
for module in /modules/*; do insmod $module || echo "$module cannot be loaded"; done
mount -t xenfs xenfs /proc/xen
echo 'autoballoon="off"' > /etc/xen/xl.conf
ip link set lo up
brctl addbr xenbr0; ip link set xenbr0 up
if [ -e /sys/class/net/eth0 ]; then brctl addif xenbr0 eth0; ip link set eth0 up; fi
xenstored --pid-file=/var/run/xenstored.pid
tries=0
while ! xenstore-read / > /dev/null 2>&1 && [ $tries -lt 100 ]; do usleep 50000; tries=$((tries + 1)); done
xen-init-dom0
xenconsoled --log=all --log-dir=/var/log/xen --pid-file=/var/run/xenconsoled.pid
echo "@ready"
while read -r number command; do
    eval "$command"
    echo "@end $number $?"
done
poweroff -f
