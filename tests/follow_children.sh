#!/bin/sh
# follow_children.sh WEFT - programs that a program executes are preloaded, or not, as --follow-children says.
#
# Called by ctest ("follow_children"). The inner shell is a program of its own, executed by the outer one.
set -eu
weft=$1
inner='sh -c "grep -q libweft.so /proc/\$\$/maps && echo followed || echo native; echo list:\$LD_PRELOAD"; exit 0'

expect() {
  if [ "$1" != "$2" ]; then
    echo "follow_children: '$1', expected '$2'" >&2
    exit 1
  fi
}

first() { head -n 1; }
expect "$("$weft" run -- sh -c "$inner" | first)" followed
expect "$("$weft" run --follow-children yes -- sh -c "$inner" | first)" followed
expect "$("$weft" run --follow-children no -- sh -c "$inner")" "native
list:"
expect "$(WEFT_FOLLOW_CHILDREN=0 "$weft" run -- sh -c "$inner" | first)" native
