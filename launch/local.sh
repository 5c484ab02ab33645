#!/usr/bin/env bash
# Trains on this machine with N processes: on one GPU each, or on the CPU.
#
#   launch/local.sh N --config=FILE --workdir=DIR [--config.KEY=VALUE ...]
#
# JAXDISTILL_PROGRAM   what to run                                        (python -m jaxdistill.main)
# JAXDISTILL_RESTARTS  how often a run goes on after it was stopped or lost a process  (3)
# JAXDISTILL_GRACE     seconds that the others have to end after the first one failed  (60)
set -uo pipefail

# The same codes as in jaxdistill/errors.py: a run that ends with these can go on.
retried="75 82"
# A process that was killed or aborted; its peers lost it.
killed="134 137 143"
lost=82

read -ra program <<<"${JAXDISTILL_PROGRAM:-python -m jaxdistill.main}"
restarts=${JAXDISTILL_RESTARTS:-3}
grace=${JAXDISTILL_GRACE:-60}
first_port=20000

say() {
  echo "local.sh: $*" >&2
}

refuse() {
  say "error: $*"
  exit 2
}

is_among() {
  [[ " $2 " == *" $1 "* ]]
}

# Reads from a pipe that never has anything: unlike sleep, that is no process.
pause() {
  read -rt "$1" -u "$never" || true
}

# A port that nobody listens to, below those that the system gives to connections.
find_port() {
  local port
  while true; do
    port=$((first_port + RANDOM % 10000))
    if ! (: <"/dev/tcp/127.0.0.1/$port") 2>/dev/null; then
      echo "$port"
      return
    fi
  done
}

# The GPUs that processes can have, one a line; none for the CPU.
list_gpus() {
  if [[ ${JAX_PLATFORMS:-} == cpu* ]]; then
    return
  fi
  if [[ -n ${CUDA_VISIBLE_DEVICES:-} ]]; then
    tr ',' '\n' <<<"$CUDA_VISIBLE_DEVICES"
  elif command -v nvidia-smi >/dev/null; then
    nvidia-smi --query-gpu=index --format=csv,noheader 2>/dev/null
  fi
}

start_all() {
  local index
  pids=()
  export JAX_COORDINATOR_ADDRESS
  JAX_COORDINATOR_ADDRESS="127.0.0.1:$(find_port)"
  export JAXDISTILL_PROCESSES=$count
  for ((index = 0; index < count; index++)); do
    export JAXDISTILL_PROCESS=$index
    if ((${#gpus[@]})); then
      export CUDA_VISIBLE_DEVICES=${gpus[index]}
    fi
    "${program[@]}" "$@" </dev/null &
    pids+=("$!")
  done
}

# Each process leads a group of its own, so what it started ends with it.
kill_all() {
  local pid
  for pid in "${pids[@]}"; do
    kill -KILL -- "-$pid" 2>/dev/null
  done
}

stop_all() {
  local pid
  for pid in "${pids[@]}"; do
    kill -TERM "$pid" 2>/dev/null
  done
}

# The first signal is a request to save and stop; the second one kills.
forward() {
  signals=$((signals + 1))
  if ((signals > 1)); then
    kill_all
    return
  fi
  say "stopping: the processes save their state; once more stops at once"
  stop_all
}

# `ended` is the code of the run: the first bad one, but a code that a restart would not
# change comes before one that it would.
count_code() {
  if ((ended == 0)); then
    ended=$1
  elif is_among "$ended" "$retried" && ! is_among "$1" "$retried"; then
    ended=$1
  fi
}

# Waits for all processes; those that outlive a failed one too long are killed.
wait_for_all() {
  local -A codes=()
  local pid code deadline=""
  ended=0
  while ((${#codes[@]} < count)); do
    for pid in "${pids[@]}"; do
      if [[ -v codes[$pid] ]] || kill -0 "$pid" 2>/dev/null; then
        continue
      fi
      wait "$pid"
      code=$?
      if is_among "$code" "$killed"; then
        code=$lost
      fi
      codes[$pid]=$code
      count_code "$code"
    done
    if ((ended != 0)); then
      deadline=${deadline:-$((SECONDS + grace))}
      if ((SECONDS >= deadline)); then
        kill_all
      fi
    fi
    pause 0.05
  done
}

main() {
  local restart
  count=${1:-}
  [[ $count =~ ^[1-9][0-9]*$ ]] || refuse "the first argument is the number of processes, got '$count'"
  shift
  mapfile -t gpus < <(list_gpus)
  if ((${#gpus[@]} > 0 && count > ${#gpus[@]})); then
    refuse "$count processes, ${#gpus[@]} GPUs: use at most as many, or JAX_PLATFORMS=cpu"
  fi
  if [[ " $*" != *" --workdir"* ]]; then
    # Every start would begin in a new folder.
    restarts=0
  fi

  # Job control: a group for each process, and Ctrl-C reaches this script alone.
  set -m
  exec {never}<> <(:)
  pids=()
  signals=0
  trap 'forward' TERM INT HUP
  trap 'kill_all' EXIT

  for ((restart = 0; ; restart++)); do
    start_all "$@"
    if ((signals > 0)); then
      # It came before there was anybody to tell.
      stop_all
    fi
    wait_for_all
    kill_all
    if ((ended == 0 || signals > 0)) || ! is_among "$ended" "$retried"; then
      break
    fi
    if ((restart == restarts)); then
      say "ended with code $ended after $restart restarts"
      break
    fi
    say "ended with code $ended: restart $((restart + 1)) of $restarts"
  done
  return "$ended"
}

main "$@"
