#!/bin/bash
# Runs a command beside two nodes that exist only meanwhile, each with a network and an address of its own:
#
#     tests/cluster/nodes.sh COMMAND…        e.g. `tests/cluster/nodes.sh bash`, and in it `ip netns exec node1 …`
#
# node1 is 10.0.0.1, node2 10.0.0.2; the command itself is a third machine, 10.0.0.254, on the same switch. They share files.
# All of it lives in namespaces of the kernel, which end with this script, even if it is killed.
set -euo pipefail

PATH=$PATH:/usr/sbin:/sbin
for program in unshare ip; do
    if ! command -v "$program" >/dev/null; then
        echo "error: $program not installed: on Debian, apt-get install util-linux iproute2" >&2
        exit 1
    fi
done
if [ "$(id -u)" != 0 ]; then
    echo "error: nodes with addresses of their own need root: run this with sudo" >&2
    exit 1
elif [ $# = 0 ]; then
    echo "usage: $0 COMMAND…" >&2
    exit 2
elif [ "${PINGLM_IN_NAMESPACE:-}" != yes ]; then
    own=(--mount --pid --net --fork --kill-child --mount-proc)
    if ! why=$(unshare "${own[@]}" ip link add switch type bridge 2>&1); then
        echo "error: nodes with addresses of their own need namespaces and a bridge, which this machine refuses (${why##*: })" >&2
        exit 1
    fi
    PINGLM_IN_NAMESPACE=yes exec unshare "${own[@]}" "$0" "$@"
fi

unset PINGLM_IN_NAMESPACE
mount -t tmpfs nodes /run
mkdir -m 755 /run/nodes
ip link set lo up
ip link add switch type bridge
ip address add 10.0.0.254/24 dev switch
ip link set switch up
for node in 1 2; do
    ip netns add node$node
    ip link add port$node type veth peer name eth0 netns node$node
    ip link set port$node master switch up
    ip -n node$node address add 10.0.0.$node/24 dev eth0
    ip -n node$node link set eth0 up
    ip -n node$node link set lo up
done
status=0
"$@" || status=$?
exit $status
