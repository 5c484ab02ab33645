#!/usr/bin/env bash
# Trains on a Cloud TPU slice of spot capacity, one process on each of its machines.
#
#   launch/tpu_pod.sh NAME --config=FILE --workdir=DIR [--config.KEY=VALUE ...]
#
# Requests the slice NAME, waits for it, prepares its machines and runs; begins again if it
# is preempted, and deletes it at the end. DIR is a folder that all machines have and that
# outlives them, such as one of Filestore: JAXDISTILL_PREPARE has to mount it.
#
# JAXDISTILL_TPU_ZONE     where                                     (us-west4-a)
# JAXDISTILL_TPU_TYPE     the slice                                 (v5litepod-16)
# JAXDISTILL_TPU_RUNTIME  what its machines run                     (v2-alpha-tpuv5-lite)
# JAXDISTILL_PREPARE      a command for each machine of a new slice (installs jaxdistill in ~/jaxdistill)
# JAXDISTILL_PROGRAM      what to run there                         (~/jaxdistill/bin/python -m jaxdistill.main)
# JAXDISTILL_RESTARTS     how often to begin again                  (10)
# JAXDISTILL_POLL         seconds between looks at the request      (30)
set -uo pipefail

# The same codes as in jaxdistill/errors.py: a run that ends with these can go on.
retried="75 82"
# A process that was killed or aborted, or a machine that ssh lost.
killed="134 137 143 255"
lost=82

zone=${JAXDISTILL_TPU_ZONE:-us-west4-a}
type=${JAXDISTILL_TPU_TYPE:-v5litepod-16}
runtime=${JAXDISTILL_TPU_RUNTIME:-v2-alpha-tpuv5-lite}
source="jaxdistill[tpu] @ git+https://github.com/jaxdistill/jaxdistill"
install="python3 -m pip install --user --quiet uv"
install+=" && python3 -m uv venv --quiet --allow-existing --python 3.12 ~/jaxdistill"
install+=" && python3 -m uv pip install --quiet --python ~/jaxdistill '$source'"
prepare=${JAXDISTILL_PREPARE:-$install}
# The other machine's shell knows where home is.
program=${JAXDISTILL_PROGRAM:-"~/jaxdistill/bin/python -m jaxdistill.main"}
restarts=${JAXDISTILL_RESTARTS:-10}
poll=${JAXDISTILL_POLL:-30}

say() {
  echo "tpu_pod.sh: $*" >&2
}

refuse() {
  say "error: $*"
  exit 2
}

is_among() {
  [[ " $2 " == *" $1 "* ]]
}

# ACTIVE, FAILED, SUSPENDED and so on; nothing where there is no such request. A list is
# empty then, so that a gcloud that fails is not taken for a slice that is gone.
get_state() {
  gcloud compute tpus queued-resources list --zone="$zone" \
    --filter="name~/$name\$" --format="value(state.state)"
}

request() {
  say "requesting $type in $zone as $name"
  gcloud compute tpus queued-resources create "$name" --node-id="$name" --zone="$zone" \
    --accelerator-type="$type" --runtime-version="$runtime" --spot
}

delete() {
  say "deleting $name"
  gcloud compute tpus queued-resources delete "$name" --zone="$zone" --force --quiet
}

run_on_all() {
  gcloud compute tpus tpu-vm ssh "$name" --zone="$zone" --worker=all --command="$1"
}

# Waits until the slice is there; requests it where that is not so or it was taken away.
get_slice() {
  local state
  while true; do
    state=$(get_state) || state="unknown"
    case $state in
      ACTIVE) return ;;
      FAILED) refuse "the request failed: gcloud compute tpus queued-resources describe says why" ;;
      "")
        prepared=false
        request || refuse "gcloud did not accept the request, see what it says"
        ;;
      SUSPENDED)
        prepared=false
        delete
        ;;
    esac
    sleep "$poll"
  done
}

# Prepares the machines of a new slice, unless it was taken away meanwhile.
prepare_slice() {
  if $prepared; then
    return
  fi
  if run_on_all "$prepare"; then
    prepared=true
  elif [[ $(get_state) == ACTIVE ]]; then
    refuse "the machines could not be prepared, see what they say: $prepare"
  fi
}

# Sets `ended` to the code of the run. gcloud ends with the code of the first machine that
# failed; the one that counts may be another's, so each says its own.
train() {
  local command log code codes
  command="flock --timeout=300 --conflict-exit-code=$lost ~/.jaxdistill.lock"
  command+=" $program$arguments; code=\$?; echo \"jaxdistill: exit code \$code\"; exit \$code"
  log=$(mktemp)
  run_on_all "$command" | tee "$log"
  ended=${PIPESTATUS[0]}
  mapfile -t codes < <(sed -n 's/.*jaxdistill: exit code \([0-9]*\)$/\1/p' "$log")
  rm -f "$log"
  for code in "$ended" "${codes[@]}"; do
    if ((code != 0)) && ! is_among "$code" "$retried $killed"; then
      ended=$code
      return
    fi
  done
  if is_among "$ended" "$killed"; then
    ended=$lost
  fi
}

main() {
  local restart
  name=${1:-}
  [[ $name =~ ^[a-z][a-z0-9-]*$ ]] || refuse "the first argument is a name for the slice, got '$name'"
  shift
  [[ " $*" == *" --workdir"* ]] || refuse "--workdir=DIR is missing: a run that begins again goes on there"
  command -v gcloud >/dev/null || refuse "gcloud is not installed: see https://cloud.google.com/sdk"
  arguments=""
  if (($#)); then
    arguments=$(printf ' %q' "$@")
  fi

  # A slice costs money until it is deleted, whatever ends this script.
  trap 'delete' EXIT
  trap 'exit 130' INT TERM HUP
  prepared=false
  for ((restart = 0; ; restart++)); do
    get_slice
    prepare_slice
    ended=$lost
    if $prepared; then
      train
    fi
    if ! is_among "$ended" "$retried"; then
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
