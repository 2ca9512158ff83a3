# The CPUs beside each GPU, `0:0-55,112-167`, which NeMo RL's workers bind themselves to: found as its ray.sub finds
# them at v0.7.0, by the column before the last (NUMA affinity; a list's first entry is the CPUs' own node).
if [ -n "${NRL_GPU_CPU_AFFINITY_FILE:-}" ] && command -v nvidia-smi >/dev/null && mkdir -p "$RAY_TMPDIR"; then
  nvidia-smi topo -m 2>/dev/null | awk '/^GPU[0-9]/ {
    gpu = $1; sub(/GPU/, "", gpu)
    numa = $(NF - 1); sub(/[,-].*/, "", numa)
    if (numa ~ /^[0-9]+$/) print gpu, numa
  }' | while read -r gpu numa; do
    cpus=$(cat "${NX_SYSFS:-/sys}/devices/system/node/node$numa/cpulist" 2>/dev/null)
    [ -z "$cpus" ] || echo "$gpu:$cpus"
  done >"$NRL_GPU_CPU_AFFINITY_FILE"
  [ -s "$NRL_GPU_CPU_AFFINITY_FILE" ] || echo "nano-exp: nvidia-smi topo -m tells no CPUs of GPUs: none is bound" >&2
fi
