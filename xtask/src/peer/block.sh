#!/bin/sh
# What xl calls when a guest gets a disk, and when it loses it: tells the back end which device that is.
[ "$1" = add ] || exit 0
device=$(xenstore-read $XENBUS_PATH/params)
xenstore-write $XENBUS_PATH/physical-device $(stat -L -c %t:%T $device)
xenstore-write $XENBUS_PATH/hotplug-status connected
