#!/bin/sh
# One node of an attempt: Ray's head or a member of it, and on the first node the driver. Started by srun on every node,
# inside the container where there is one, or in a slot of a node (pack=N) by the attempt. It ends with the driver's exit
# code; whatever ends, all of this node's ends.
set -u
@SETTINGS@

export NX_RANK="${NX_RANK:-${SLURM_PROCID:?this runs in a Slurm step}}" NX_HOST="${SLURMD_NODENAME:-$(hostname)}"
NX_STEP_TIME=$(date +%s.%N)
case $NX_STEP_TIME in *[!0-9.]*) NX_STEP_TIME=$(date +%s) ;; esac  # busybox has no %N
export NX_STEP_TIME
NX_OTHERS=
for host in $NX_HOSTS; do
  [ "$host" = "$NX_HOST" ] || NX_OTHERS="$NX_OTHERS $host"
done
export NX_OTHERS
nodes=$NX_ATTEMPT/nodes
exec 3>&1 4>&2 >>"$nodes/$NX_HOST.log" 2>&1 </dev/null
unset RAY_ADDRESS
asked='' tick=0 starts=1
ulimit -n "$NX_OPEN_FILES" 2>/dev/null || ulimit -n "$(ulimit -Hn)"

finish() {  # exit code
  trap '' TERM INT HUP
  trap - EXIT
  for group in $(cat "$nodes/$NX_HOST.groups" 2>/dev/null); do
    kill -KILL "-$group" 2>/dev/null
  done
  # What left its group has the token in its environment still.
  for round in 1 2 3; do
    found=$(mark="NX_TOKEN=$NX_TOKEN"; unset NX_TOKEN; exec grep -lsF "$mark" /proc/[0-9]*/environ)
    [ -n "$found" ] || break
    for file in $found; do
      pid=${file#/proc/}
      kill -KILL "${pid%/environ}"
    done 2>/dev/null
  done
  keep_logs
  rm -rf "$RAY_TMPDIR"
  exit "$1"
}

keep_logs() {  # Ray's logs of an attempt that failed or stalled, for at most 20 s
  [ -s "$nodes/keep" ] || [ -s "$nodes/failed" ] || { read -r code <"$nodes/end" && [ "$code" != 0 ]; } || return
  (engine_python "$nodes/ray_logs.py" "$RAY_TMPDIR" "$nodes/$NX_HOST.ray-logs.tgz" 3>&- 4>&-) &
  keeper=$!
  for round in $(seq 100); do
    alive "$keeper" || return
    sleep 0.2
  done
  kill -KILL "$keeper" 2>/dev/null
}

give_stacks() {  # the attempt asks by a new word in the file
  read -r word <"$nodes/stacks" && [ "$word" != "$asked" ] || return
  asked=$word
  (engine_python "$nodes/node_stacks.py" "$nodes/$NX_HOST.stacks.$word.json" "$NX_ATTEMPT/nemo_rl.yaml" "$RAY_TMPDIR/ray/session_" 3>&- 4>&-) &
}

fail() {  # found, why, fix, [exit code]; the first node that fails says why
  if (set -C; printf '%s\n' "$1" "$2" "$3" >"$nodes/failed") 2>/dev/null; then
    tail -n 5 "$nodes/$NX_HOST.log" | sed "s/^/$NX_HOST: /" >>"$nodes/failed"
  fi
  say
  finish "${4:-1}"
}

say() {  # the reason on stderr, once
  mkdir "$nodes/said" 2>/dev/null && sed '1s/^/nano-exp: /; 2s/^/  why: /; 3s/^/  fix: /; 4,$s/^/  | /' "$nodes/failed" >&4
}

alive() {  # a process that has ended and was not waited for has no program
  [ -e "/proc/$1/exe" ]
}

driver_ended() {  # opened anew: a shared file system must then look at the file, not at what it remembers
  read -r word <"$nodes/end"
}

ended() {  # process id, what it is: it ended; say why
  wait "$1"
  code=$?
  [ -s "$nodes/failed" ] && { say; finish 1; }
  how="exit code $code"
  [ "$code" -gt 128 ] && how="signal $((code - 128))"
  fail "$2 on $NX_HOST ended ($how)" "without it the run cannot go on" "read the lines below; the whole log is $nodes/$NX_HOST.log"
}

trap 'finish 143' TERM INT HUP
mkdir -p -m 700 "$RAY_TMPDIR" || fail "$RAY_TMPDIR cannot be made on $NX_HOST" "Ray keeps its sockets and logs there" "a short folder on a local disk: '++site.env.RAY_TMPDIR=/scratch/me'"
trap 'fail "site.node_setup failed on $NX_HOST" "a line of it ended with an error" "correct the line; the whole log is $nodes/$NX_HOST.log"' EXIT
set -e
@NODE_SETUP@
set +e
trap - EXIT
@AFFINITY@
export NX_TOKEN

if [ "$NX_RANK" != 0 ]; then
  engine_python "$nodes/ray_node.py" join 3>&- 4>&- &
  ray=$!
  while alive "$ray"; do
    driver_ended && finish 0
    give_stacks
    sleep 0.5
  done
  sleep 1  # Ray's end may be seen before the driver's
  driver_ended && finish 0
  ended "$ray" Ray
fi

start_head() {
  engine_python "$nodes/ray_node.py" head 3>&- 4>&- &
  ray=$!
}

start_head
engine_python "$nodes/ray_node.py" drive @DRIVER@ &
driver=$!
while alive "$driver"; do
  # A raylet waits 15 s for its agents and aborts: too short where several start at once from a slow disk.
  if ! alive "$ray" && [ -n "${NX_NODE_PORTS:-}" ] && [ "$starts" -lt 4 ] && [ ! -s "$nodes/head" ] && [ ! -s "$nodes/failed" ]; then
    starts=$((starts + 1))
    echo "Ray's head did not come up; once more"
    start_head
  fi
  alive "$ray" || { kill -KILL "$driver" 2>/dev/null; ended "$ray" "Ray's head"; }
  tick=$(((tick + 1) % 10))
  [ "$tick" != 0 ] || give_stacks
  sleep 0.2
done
wait "$driver"
code=$?
echo "$code" >"$nodes/end"  # the other nodes end quietly; what they would say now is a consequence
if [ "$code" = 96 ] && [ -s "$nodes/failed" ]; then
  say
  finish 1
fi
if [ "$code" -gt 128 ]; then
  fail "the driver on $NX_HOST was killed by signal $((code - 128))" "somebody or the kernel (out of memory) killed it" "sudo dmesg on $NX_HOST, or its Slurm memory limit" "$code"
fi
finish "$code"
