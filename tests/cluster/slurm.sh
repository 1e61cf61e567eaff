#!/bin/bash
# Runs a command beside a SLURM cluster of two nodes that exists only meanwhile:
#
#     tests/cluster/slurm.sh COMMAND…        e.g. `tests/cluster/slurm.sh bash` to look around
#
# The command finds `sbatch`, `squeue`, … working, and a folder of its own in SLURM_TEST_FOLDER. Daemons, jobs, network and
# files live in namespaces of the kernel, which ends all of them with this script, even if it is killed.
set -euo pipefail

PATH=$PATH:/usr/sbin:/sbin
missing=()
for program in slurmctld slurmd munged srun unshare ip; do
    command -v "$program" >/dev/null || missing+=("$program")
done
if [ ${#missing[@]} -gt 0 ]; then
    echo "error: ${missing[*]} not installed: on Debian, apt-get install slurm-wlm munge util-linux iproute2" >&2
    exit 1
elif [ "$(id -u)" != 0 ]; then
    echo "error: a SLURM of one's own needs root: run this with sudo" >&2
    exit 1
elif [ $# = 0 ]; then
    echo "usage: $0 COMMAND…" >&2
    exit 2
elif [ "${PINGLM_IN_NAMESPACE:-}" != yes ]; then
    own=(--mount --pid --net --fork --kill-child --mount-proc)
    if ! why=$(unshare "${own[@]}" true 2>&1); then
        echo "error: a SLURM of one's own needs namespaces, which this machine refuses (${why##*: }): run it outside the container" >&2
        exit 1
    fi
    PINGLM_IN_NAMESPACE=yes exec unshare "${own[@]}" "$0" "$@"
fi

unset PINGLM_IN_NAMESPACE

# Each node has an address of its own. Sockets and all files are under /run, which is memory of this namespace alone.
ip link set lo up
ip address add 10.0.0.1 dev lo
ip address add 10.0.0.2 dev lo
mount -t tmpfs slurm /run
folder=/run/slurm
mkdir -p -m 755 /run/munge "$folder"/{logs,state,tmp}
host=$(hostname -s)
printf '127.0.0.1 localhost\n10.0.0.1 node1 %s\n10.0.0.2 node2\n' "$host" >"$folder/hosts"
mount --bind "$folder/hosts" /etc/hosts

export SLURM_CONF=$folder/slurm.conf SLURM_TEST_FOLDER=$folder/tmp TMPDIR=$folder/tmp
cat >"$SLURM_CONF" <<END
ClusterName=pinglm
SlurmctldHost=$host
SlurmUser=root
AuthType=auth/munge
AuthInfo=cred_expire=5             # also how long a requeued job waits
MpiDefault=none
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
GresTypes=gpu
SchedulerType=sched/builtin
SchedulerParameters=sched_interval=2
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
KillWait=20
ReturnToService=2
StateSaveLocation=$folder/state
SlurmdSpoolDir=$folder/%n
SlurmctldPidFile=$folder/slurmctld.pid
SlurmdPidFile=$folder/%n.pid
SlurmctldLogFile=$folder/logs/slurmctld
SlurmdLogFile=$folder/logs/%n
NodeName=node1 NodeHostname=$host Port=7001 CPUs=1 RealMemory=4000 Gres=gpu:1
NodeName=node2 NodeHostname=$host Port=7002 CPUs=1 RealMemory=4000 Gres=gpu:1
PartitionName=work Nodes=node1,node2 Default=YES PriorityTier=1 GraceTime=60
PartitionName=urgent Nodes=node1,node2 PriorityTier=2
END
echo "Name=gpu File=/dev/null" >"$folder/gres.conf"  # counted and handed out like a real one

started() {
    dd if=/dev/urandom of="$folder/munge.key" bs=128 count=1 status=none && chmod 600 "$folder/munge.key" &&
        munged --key-file="$folder/munge.key" --seed-file="$folder/munge.seed" \
            --pid-file="$folder/munged.pid" --log-file="$folder/logs/munged" &&
        slurmctld && slurmd -N node1 && slurmd -N node2 || return
    for _ in {1..60}; do
        if [ "$(timeout 1 sinfo --noheader --partition=work --states=idle --format=%D)" = 2 ]; then
            return
        fi
        sleep 0.5
    done
    return 1
}

if ! started >"$folder/logs/start" 2>&1; then
    tail -n 20 "$folder"/logs/* >&2
    echo "error: SLURM did not start in time; its last words are above" >&2
    exit 1
fi
status=0
"$@" || status=$?
exit $status
