#!/bin/sh
# /usr/local/sbin/check_mysql.sh: whether this node is fit to serve.
#
# The database runs on one node only, so the other one is fit without it. Where it was started and
# not stopped, it has to answer; "access denied" is an answer too.

[ -e /run/mysqld/mysqld.pid ] || exit 0
exec mysqladmin --connect-timeout=2 --silent ping >/dev/null 2>&1
