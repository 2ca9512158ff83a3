#!/bin/sh
# What a one-node attempt starts inside its container, or after the site's set-up lines.
set -u
@SETTINGS@
trap 'echo "nano-exp: site.node_setup failed on ${SLURMD_NODENAME:-$(hostname)}" >&2' EXIT
set -e
@NODE_SETUP@
set +e
trap - EXIT
@AFFINITY@
engine_python @DRIVER@
