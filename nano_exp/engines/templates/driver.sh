#!/bin/sh
# What a one-node attempt starts inside its container, or after the site's set-up lines.
set -u
@SETTINGS@
set -e
@NODE_SETUP@
set +e
engine_python @DRIVER@
