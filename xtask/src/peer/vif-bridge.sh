#!/bin/sh
# What xl calls when a guest gets a network interface, and when it loses it: connects it to the bridge.
case $1 in
    online | add)
        brctl addif xenbr0 $vif
        ip link set $vif up
        xenstore-write $XENBUS_PATH/hotplug-status connected
        ;;
    offline) ip link set $vif down 2> /dev/null ;;
esac
exit 0
