#!/bin/sh
# Prints how many test processes fit here, 6 to 12: four more than the CPUs this process may use (a container's quota
# counts), because tests also wait for browsers and processes. pytest-xdist's own "auto" would count the whole host's.
set -eu

cpus=$(nproc 2>/dev/null || sysctl -n hw.logicalcpu 2>/dev/null || echo 2)
quota=max
period=100000
if [ -r /sys/fs/cgroup/cpu.max ]; then
    read -r quota period </sys/fs/cgroup/cpu.max
elif [ -r /sys/fs/cgroup/cpu/cpu.cfs_quota_us ]; then
    read -r quota </sys/fs/cgroup/cpu/cpu.cfs_quota_us
    read -r period </sys/fs/cgroup/cpu/cpu.cfs_period_us
fi
case $quota in
max | -1) ;;
*)
    allowed=$(((quota + period - 1) / period))
    [ "$allowed" -ge "$cpus" ] || cpus=$allowed
    ;;
esac
[ "$cpus" -ge 2 ] || cpus=2
[ "$cpus" -le 8 ] || cpus=8
echo $((cpus + 4))
