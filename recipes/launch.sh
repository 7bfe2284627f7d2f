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
  export DS_ACCELERATOR=cpu
  # DeepSpeed counts a machine without GPUs as one device, so the number of processes is stated.
  [ "${#launcher_args[@]}" -gt 0 ] || launcher_args=(--num_gpus 2)
fi

# On one machine DeepSpeed's runner dies of a signal and leaves the training processes behind; its
# child hands signals on to them. Over several machines the runner does that itself.
stop_training() {
  stopped=143
  python - "$launcher" <<'PYTHON' || true
import sys

import psutil

runner = psutil.Process(int(sys.argv[1]))
local = [child for child in runner.children() if "deepspeed.launcher.launch" in child.cmdline()]
for process in local or [runner]:
    process.terminate()
PYTHON
}

# The module behind the command `deepspeed`, which cannot start from a path with a space in it.
# A port of its own lets two runs share a machine.
port="$(python -c 'import socket; s = socket.socket(); s.bind(("", 0)); print(s.getsockname()[1])')"
python -m deepspeed.launcher.runner --log_level warning --master_port "$port" \
  ${launcher_args[@]+"${launcher_args[@]}"} "$0" "$@" &
launcher=$!
stopped=0
trap stop_training TERM INT

# `wait` returns when a signal arrives, too; the processes are then still saving their checkpoint.
code=0
wait "$launcher" || code=$?
while kill -0 "$launcher" 2>/dev/null; do
  code=0
  wait "$launcher" || code=$?
done
[ "$code" -eq 0 ] || [ "$stopped" -eq 0 ] || code="$stopped"
exit "$code"
