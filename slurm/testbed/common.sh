# Sourced by up, down and kill-node: where the cluster lives, which processes are its own, and how they end.

export PATH=/usr/sbin:/usr/bin:/sbin:/bin:$PATH LC_ALL=C

fail() { # code line
  echo "slurm/testbed/$(basename "$0"): $2" >&2
  exit "$1"
}

number() { # option value least most
  [[ ${2:-} =~ ^[0-9]{1,8}$ ]] && ((10#$2 >= $3 && 10#$2 <= $4)) ||
    fail 2 "$1 is a number from $3 to $4, not '${2:-}'"
}

locate() { # root: sets ROOT and CONF
  ROOT=$(realpath -m -- "$1")
  # Slurm's configuration has no quoting, and a socket's path at most 107 characters.
  [[ $ROOT =~ ^/[A-Za-z0-9/._-]{1,60}$ ]] ||
    fail 2 "--root $ROOT: at most 60 characters of A-Z a-z 0-9 / . _ -, and not / itself"
  CONF=$ROOT/etc/slurm.conf
  export SLURM_CONF=$CONF
}

lock() { # one script at a time for a root; daemons must not inherit descriptor 9
  exec 9>"$ROOT/.lock"
  flock -w 120 9 || fail 1 "another script holds $ROOT/.lock"
}

# A process is this cluster's own when it runs that program (Debian calls it slurmd-wlm) and was started for
# this root: pid files outlive processes, pids are used again, and a second cluster runs the same programs.
own() { # pid program
  local exe
  exe=$(readlink "/proc/$1/exe" 2>/dev/null) || return 1
  exe=${exe% (deleted)}
  exe=${exe##*/}
  [ "${exe%-wlm}" = "$2" ] && grep -qzFx "SLURM_TESTBED=$ROOT" "/proc/$1/environ" 2>/dev/null
}

alive() { # pidfile program
  local pid
  pid=$(cat "$1" 2>/dev/null) && [ -n "$pid" ] && own "$pid" "$2"
}

wait_for() { # seconds command...
  local end=$((SECONDS + $1))
  shift
  until "$@" >/dev/null 2>&1; do
    [ $SECONDS -lt $end ] || return 1
    sleep 0.1
  done
}

gone() { ! own "$1" "$2"; }

stop() { # pidfile program
  local pid
  if alive "$1" "$2"; then
    pid=$(cat "$1")
    kill -TERM "$pid" 2>/dev/null
    wait_for 30 gone "$pid" "$2" || kill -KILL "$pid" 2>/dev/null
    wait_for 10 gone "$pid" "$2" || fail 1 "$2 ($pid) does not end"
  fi
  rm -f "$1"
}

processes() { # NAME=VALUE...: pids of those whose environment holds them all
  local files=(/proc/[0-9]*/environ) pair
  for pair; do mapfile -t files < <(grep -lszFx -- "$pair" "${files[@]}" /dev/null); done
  [ ${#files[@]} = 0 ] || printf '%s\n' "${files[@]}" | cut -d/ -f3
}

work_of() { # node: its steps, and the processes of its jobs wherever they went
  local pid
  for pid in $(processes "SLURM_TESTBED=$ROOT" "SLURM_TESTBED_DAEMON=slurmd-$1"); do
    ! own "$pid" slurmstepd || echo "$pid"
  done
  processes "SLURM_CONF=$CONF" "SLURMD_NODENAME=$1"
}

descendants() { # pids...: they and everything below them
  cat /proc/[0-9]*/status 2>/dev/null | awk -v roots="$*" '
    /^Pid:/ { pid = $2 }
    /^PPid:/ { parent[pid] = $2 }
    END {
      n = split(roots, root, " ")
      for (i = 1; i <= n; i++) in_tree[root[i]] = 1
      do {
        grown = 0
        for (pid in parent) if (!(pid in in_tree) && (parent[pid] in in_tree)) in_tree[pid] = grown = 1
      } while (grown)
      for (pid in in_tree) print pid
    }' | sort -n
}

no_work() { [ -z "$(work_of "$1")" ]; }

cut_power() { # node: ends its steps and the processes of its jobs at once
  local tree before=none
  # Stopped first: killing a tree from the top lets its leaves escape, from below lets its top start new ones.
  tree=$(descendants $(work_of "$1"))
  while [ "$tree" != "$before" ]; do
    kill -STOP $tree 2>/dev/null
    before=$tree
    tree=$(descendants $(work_of "$1"))
  done
  [ -z "$tree" ] || kill -KILL $tree 2>/dev/null
  wait_for 10 no_work "$1" || fail 1 "processes of $1 do not end: $(work_of "$1" | tr '\n' ' ')"
}

no_jobs() { [ -z "$(squeue -h 2>/dev/null)" ]; }

stop_cluster() { # everything of this root: jobs, then daemons from the top down
  local file node
  if alive "$ROOT/run/slurmctld.pid" slurmctld && ! no_jobs; then
    scancel --quiet --state=PENDING 2>/dev/null
    scancel --quiet --user="$(id -un)" 2>/dev/null
    wait_for 15 no_jobs
  fi
  stop "$ROOT/run/slurmctld.pid" slurmctld
  for file in "$ROOT"/run/slurmd-*.pid; do stop "$file" slurmd; done
  for node in "$ROOT"/spool/*; do cut_power "${node##*/}"; done
  stop "$ROOT/run/slurmdbd.pid" slurmdbd
  stop "$ROOT/run/mariadbd.pid" mariadbd
  stop "$ROOT/run/munged.pid" munged
}
