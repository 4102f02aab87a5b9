#!/bin/bash
#SBATCH --job-name=skyframe-nano
#SBATCH --comment=skyframe:/data/runs/nano
#SBATCH --chdir=/data
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=8
#SBATCH --cpus-per-task=16
#SBATCH --gpus-per-node=8
#SBATCH --time=24:00:00
#SBATCH --mem=0
#SBATCH --partition=a100
#SBATCH --account=eo
#SBATCH --constraint="a100&nvme"
#SBATCH --exclusive
#SBATCH --signal=USR2@180
#SBATCH --requeue
#SBATCH --open-mode=append
#SBATCH --output=/data/runs/nano/slurm/%j_script.log

set -eo pipefail

module load cuda/12.4
source "$HOME/skyframe/.venv/bin/activate"
export NCCL_SOCKET_IFNAME="ib0"
export GLOO_SOCKET_IFNAME="ib0"
export NCCL_DEBUG="WARN"
export NCCL_IB_HCA="mlx5"

# All ranks meet at the first node, under the address by which SLURM itself reaches it: names need not resolve. The
# search for a free port begins at a place of this job's own (each task of an array has a job id of its own), so that
# jobs which share a node do not meet each other.
nodes=($(scontrol show hostnames "$SLURM_JOB_NODELIST"))
MASTER_ADDR=$(scontrol --oneliner show node "${nodes[0]}" | sed -n 's/.* NodeAddr=\([^ ]*\).*/\1/p')
MASTER_PORT=$((12000 + SLURM_JOB_ID * 7 % 18000))
while (exec 3<>"/dev/tcp/$MASTER_ADDR/$MASTER_PORT") 2>/dev/null; do MASTER_PORT=$((MASTER_PORT + 1)); done
export MASTER_ADDR MASTER_PORT
export PYTHONUNBUFFERED=1 OMP_NUM_THREADS="${OMP_NUM_THREADS:-$SLURM_CPUS_PER_TASK}"
echo "$(date '+%F %T') job $SLURM_JOB_ID start ${SLURM_RESTART_COUNT:-0} on $SLURM_JOB_NODELIST," \
    "ranks meet at $MASTER_ADDR:$MASTER_PORT"

export TMPDIR="/local/$USER/$SLURM_JOB_ID"
srun --ntasks="$SLURM_NNODES" --ntasks-per-node=1 mkdir -p "$TMPDIR"

export SKYFRAME_VERDICT=/data/runs/nano/slurm/"$SLURM_JOB_ID"_verdict
rm -f "$SKYFRAME_VERDICT"
code=0
srun --kill-on-bad-exit=1 --cpu-bind=cores --cpus-per-task="$SLURM_CPUS_PER_TASK" --open-mode=append \
    --output=/data/runs/nano/slurm/%j_rank%t.log \
    python -m skyframe pretrain /data/runs/nano/launch/1/recipe.yaml resume=auto || code=$?

# srun tells the greatest code of all processes; one that ended by its own word has left it, and the nodes it blames.
bad=""
if [ -s "$SKYFRAME_VERDICT" ]; then read -r code bad <"$SKYFRAME_VERDICT"; fi
echo "$(date '+%F %T') job $SLURM_JOB_ID ended with code $code"
# 0: done. 2: wrong input, 130: interrupted, both would only come again. 75: the run saved itself and left, or a process
# stood still. 128 and more: killed. Any other error may pass in a run that has worked before, that is, has saved once.
# What keeps ending at one checkpoint ends for good. SLURM itself starts a job again that was preempted or lost a node.
at=$(cat /data/runs/nano/checkpoints/LATEST 2>/dev/null || echo none)
if [[ ! $code =~ ^(0|2|130)$ && ($code -eq 75 || $code -ge 128 || $at != none) ]]; then
    echo "$at" >>/data/runs/nano/slurm/"$SLURM_JOB_ID"_ends.txt
    count=$(grep -cxF "$at" /data/runs/nano/slurm/"$SLURM_JOB_ID"_ends.txt)
    if [ "$count" -le 3 ]; then
        echo "queued again from checkpoint $at ($count of 3 from there)"
        scontrol requeue "$SLURM_JOB_ID"
        sleep 60 # until SLURM ends this script
    fi
    echo "not queued again: 3 restarts from checkpoint $at did not help"
fi
exit "$code"
