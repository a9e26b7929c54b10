#!/bin/sh
# /usr/local/sbin/check_ng.sh: whether this node is fit to serve.
#
# nginx runs on one node only, so the other one is fit without it. Where it was started and not
# stopped, it has to answer.

[ -e /run/nginx.pid ] || exit 0
exec curl --silent --fail --max-time 1 --output /dev/null http://127.0.0.1/
