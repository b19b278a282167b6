#!/bin/sh
# The command director on a machine of the farm: with the farm's settings, as its user. For root.
set -a
. /etc/director/director.env
set +a
exec setpriv --reuid director --regid director --init-groups -- /opt/director/venv/bin/director "$@"
