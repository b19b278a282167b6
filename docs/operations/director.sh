#!/bin/sh
# The command director for root on a machine of the farm: uses the farm's settings and the user director.
set -a
. /etc/director/director.env
set +a
exec setpriv --reuid director --regid director --init-groups -- /opt/director/venv/bin/director "$@"
