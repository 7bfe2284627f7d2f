# Sourced by every pretrain_*.sh: starts that file, "$0", under the deepspeed launcher.
#
# DEEPSPEED_ARGS holds launcher flags, e.g. DEEPSPEED_ARGS="--hostfile hosts --num_gpus 8".
# The default is every GPU of this machine (or of /job/hostfile), or two processes on the CPU;
# DS_ACCELERATOR=cpu takes the CPU on a machine with GPUs.
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/setup.sh"

for argument in "$@"; do
  case "$argument" in
    --dry-run | --help | -h) exec python "$0" "$@" ;;
  esac
done

read -r -a launcher_args <<<"${DEEPSPEED_ARGS:-}"
if [ "${DS_ACCELERATOR:-}" = cpu ] ||
  ! python -c 'import sys, torch; sys.exit(not torch.cuda.is_available())'; then
  export DS_ACCELERATOR=cpu OMP_NUM_THREADS="${OMP_NUM_THREADS:-1}"
  # DeepSpeed counts a machine without GPUs as one device, so the number of processes is stated.
  [ "${#launcher_args[@]}" -gt 0 ] || launcher_args=(--num_gpus 2)
fi
exec deepspeed ${launcher_args[@]+"${launcher_args[@]}"} "$0" "$@"
