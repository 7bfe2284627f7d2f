# Sourced by every pretrain_*.sh: starts that file, "$0", under the deepspeed launcher.
#
# DEEPSPEED_ARGS holds launcher flags, e.g. DEEPSPEED_ARGS="--hostfile hosts --num_gpus 8".
# The default is every GPU of this machine (or of /job/hostfile), or two processes on the CPU;
# DS_ACCELERATOR=cpu takes the CPU on a machine with GPUs. A task of srun or mpirun is one rank.
#
# Exit codes: 0 where the run has reached its end, and only there; docs/reference.md lists the others.
set -euo pipefail
recipes="$(dirname "${BASH_SOURCE[0]}")"
source "$recipes/setup.sh"

for argument in "$@"; do
  case "$argument" in
    --dry-run | --help | -h) exec python "$0" "$@" ;;
  esac
done

trap 'echo "interrupted before training began" >&2; exit 130' INT
# A wrong option is said here, once, and not by every rank.
kind="$(trap '' INT && python "$0" check-options "$@")" || exit $?
[ "$kind" != rank ] || exec python "$0" "$@"

read -r -a launcher_args <<<"${DEEPSPEED_ARGS:-}"
if [ "${DS_ACCELERATOR:-}" = cpu ] ||
  ! (trap '' INT && python -c 'import sys, torch; sys.exit(not torch.cuda.is_available())'); then
  export DS_ACCELERATOR=cpu
  # DeepSpeed counts a machine without GPUs as one device, so the number of processes is stated.
  [ "${#launcher_args[@]}" -gt 0 ] || launcher_args=(--num_gpus 2)
fi

# The first signal is the ranks' to answer, which save a checkpoint; a second Ctrl-C ends them.
hand_on() {
  interrupted=1
  if [ "$stopped" -eq 130 ] && [ "$1" = INT ]; then
    receiver=launcher
    echo "interrupted again: ending all processes" >&2
    kill -KILL -- "-$launcher" 2>/dev/null || true
    return
  fi
  stopped=$((128 + $2))
  receiver="$(python "$recipes/process_tree.py" signal "$1" "$launcher")" || true
  # Without ranks there is nobody who would say it.
  [ "$receiver" = ranks ] || echo "interrupted: ending the launcher" >&2
}

# The ranks end when this process does, also by SIGKILL.
export LLAMA_DS_TOP_PROCESS="${LLAMA_DS_TOP_PROCESS:-$$}"
# The module behind the command `deepspeed`, which cannot start from a path with a space in it.
# A port of its own lets two runs share a machine.
port="$(python -c 'import socket; s = socket.socket(); s.bind(("", 0)); print(s.getsockname()[1])')"
stopped=0 receiver=ranks
trap 'hand_on INT 2' INT
trap 'hand_on USR1 10' USR1
trap 'hand_on TERM 15' TERM
# Nobody misses a host file that none has asked for, and DeepSpeed's runner warns of nothing else.
case " ${launcher_args[*]-} " in *" --hostfile"* | *" -H"*) level=warning ;; *) level=error ;; esac
# With job control the launcher has a process group of its own: Ctrl-C reaches this process alone,
# once, and whatever is left of the group can be ended.
set -m
python -m deepspeed.launcher.runner --log_level "$level" --master_port "$port" \
  ${launcher_args[@]+"${launcher_args[@]}"} "$0" "$@" </dev/null &
launcher=$!
set +m

# `wait` returns when a signal arrives, too; the processes are then still saving their checkpoint.
code=127
while :; do
  interrupted=0 last="$code" code=0
  wait "$launcher" || code=$?
  [ "$code" -ne 127 ] || code="$last" # no such process any more
  [ "$interrupted" -eq 1 ] || break
done

# DeepSpeed's runner says 0 when its child was killed, so the run itself is asked.
if [ "$code" -eq 0 ]; then
  if [ "$stopped" -eq 0 ]; then
    python "$0" check-end "$@" || code=$?
  else
    python "$0" check-end "$@" 2>/dev/null || code="$stopped"
  fi
fi
# DeepSpeed makes 256 - 9 of a rank that signal 9 has ended; shells say 128 + 9.
[ "$code" -lt 192 ] || code=$((128 + 256 - code))
# A launcher that a signal has ended knows no better code.
if [ "$receiver" = launcher ] && { [ "$code" -gt 128 ] || [ "$code" -eq 1 ]; }; then
  code="$stopped"
fi
if [ "$code" -ne 0 ] && kill -0 -- "-$launcher" 2>/dev/null; then
  python "$recipes/process_tree.py" end "$launcher" || true
fi
exit "$code"
