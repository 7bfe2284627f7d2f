# Sourced by every script that people start: puts a Python with all requirements first on PATH.
#
# The active virtual or conda environment is used; without one, `.venv` in this repository is made.
# requirements.txt and the package are installed only where they differ from what was installed last.
# A torch that the active environment has already is kept; see keep_torch.py.

llama_ds_fail() {
  printf 'error: %s\n' "$*" >&2
  return 2
}

llama_ds_is_usable() {
  "$1" -c 'import sys; sys.exit(sys.version_info < (3, 10))' >/dev/null 2>&1
}

# Prints the first Python >= 3.10; a name on PATH may be a launcher that does not work, so each is run.
llama_ds_find_python() {
  local name
  for name in python3 python3.12 python3.11 python3.13 python3.10 python; do
    if llama_ds_is_usable "$name"; then
      command -v "$name"
      return 0
    fi
  done
  llama_ds_fail "Python 3.10 or newer is needed, and none is on PATH"
}

# Makes $1 a virtual environment; one left unfinished by an interrupted start is made again.
llama_ds_make_environment() {
  local python
  "$1/bin/python" -m pip --version >/dev/null 2>&1 && return 0
  python="$(llama_ds_find_python)" || return 2
  echo "setup: making a virtual environment in $1" >&2
  "$python" -m venv --clear "$1" >/dev/null ||
    llama_ds_fail "'$python -m venv' failed; install the venv module of that Python"
}

llama_ds_install() {
  local root="$1" environment="$2" log="$2/llama-ds-install.log"
  local requirements=(-r "$root/requirements.txt")
  if [ "$environment" != "$root/.venv" ]; then
    python "$root/recipes/keep_torch.py" "$root" "$environment" || return 2
    requirements=(-r "$environment/llama-ds-requirements.txt" -c "$environment/llama-ds-constraints.txt")
  fi
  echo "setup: installing the requirements into $environment (the first time takes minutes)" >&2
  if ! {
    python -m pip install --disable-pip-version-check "${requirements[@]}" &&
      python -m pip install --disable-pip-version-check --no-deps --no-build-isolation -e "$root"
  } >"$log" 2>&1; then
    tail -n 20 "$log" >&2
    llama_ds_fail "installing the requirements failed; all of pip's output is in $log"
  fi
}

llama_ds_setup() {
  local root environment wanted stamp
  root="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)" || return 2
  environment="${VIRTUAL_ENV:-${CONDA_PREFIX:-}}"
  if [ -z "$environment" ]; then
    environment="$root/.venv"
    llama_ds_make_environment "$environment" || return 2
    export VIRTUAL_ENV="$environment"
  elif ! llama_ds_is_usable "$environment/bin/python"; then
    llama_ds_fail "Python 3.10 or newer is needed, and the active environment $environment has none"
    return 2
  fi
  export PATH="$environment/bin:$PATH"

  # The folder belongs to the stamp: an editable install points to one clone.
  wanted="$(echo "$root" | cat - "$root/requirements.txt" "$root/pyproject.toml" | cksum)" || return 2
  stamp="$environment/llama-ds-installed"
  if [ "$(cat "$stamp" 2>/dev/null)" != "$wanted" ]; then
    llama_ds_install "$root" "$environment" || return 2
    echo "$wanted" >"$stamp.partial" && mv "$stamp.partial" "$stamp"
  fi
}

llama_ds_setup || exit 2

# Ray tells nobody about its use, and tries a task that no machine has the memory for five times:
# its default is for ever. A cluster takes the number from the process that asks it for tasks.
export RAY_USAGE_STATS_ENABLED="${RAY_USAGE_STATS_ENABLED:-0}"
export RAY_task_oom_retries="${RAY_task_oom_retries:-4}"
# The executor's processes are the parallelism; threads of Hugging Face's tokenizers in each of them
# would only wait for one another, and do not survive a fork.
export TOKENIZERS_PARALLELISM="${TOKENIZERS_PARALLELISM:-false}"
