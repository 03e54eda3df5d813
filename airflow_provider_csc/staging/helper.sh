#!/bin/bash
# Sent by airflow-provider-csc: moves files between this computer and an object store by presigned
# URLs, in parallel, and verifies them. Needs bash 4.3, curl 7.61 and coreutils.
#
#   helper.sh in  CONTROL EPOCH TIMEOUT   fetch into the working directory
#   helper.sh out CONTROL EPOCH STATUS    deliver from it; STATUS is the job's exit code
#   A fifth argument tells two that write into one directory apart.
#
# CONTROL is a directory of files: the URLs come by `staging.urls`, and what was done is told in
# `staging.receipts`. A URL is as good as a key while it is valid: none is ever an argument, in the
# environment or in the log.
set +xv
set -f
# Each task is a process group, so that it ends with all that it started.
set -m
unset CDPATH
unset -f awk base64 cat curl dd find md5sum mkdir mktemp mv rm sed sleep stat tail wc 2>/dev/null
export LC_ALL=C
IFS=$' \t\n'

phase=$1 control=$2 epoch=$3 limit=${4:-0} own_mark=${5:+-$5}
urls=$control/staging.urls
receipts=$control/staging.receipts
readonly MIB=1048576 TAB=$'\t'
# Exit codes: what could not be done, and what may be possible later.
readonly FAILED=74 LATE=75
readonly ATTEMPTS=${CSC_STAGING_ATTEMPTS:-6}

say() { printf 'airflow-provider-csc: %s\n' "$*"; }
# Some messages of curl and all of proxies may hold a URL.
without_urls() { sed -E 's#https?://[^ ]*#(URL)#g; s/[[:cntrl:]]/ /g' "$@" | tail -c 300; }
note() { printf '%s\n' "$1" >>"$receipts"; }
fail() {
  local code=$1
  shift
  say "$*"
  note "failed$TAB$phase$TAB$*"
  exit "$code"
}

tmp=
clean() {
  trap '' TERM INT HUP
  local pid
  local part
  for pid in $(jobs -p); do kill -- "-$pid" 2>/dev/null; done
  [ "$phase" != out ] || rm -f -- "$urls"
  for pid in "${!get_path[@]}"; do
    partial "$pid"
    [ ! -e "$part" ] || rm -f -- "$part"
  done
  remove_small_dirs
  [ -z "$tmp" ] || rm -rf -- "$tmp"
}
trap clean EXIT
trap 'exit 143' TERM
trap 'exit 130' INT
trap 'exit 129' HUP

size_of() { stat -L -c %s -- "$1"; }
sum() { local line; line=$(md5sum) && printf %s "${line:0:32}"; }
# sum_part FILE OFFSET SIZE: the MD5 of a part of a file.
sum_part() {
  dd if="$1" bs=1M iflag=skip_bytes,count_bytes skip="$2" count="$3" status=none | sum
}
binary() {
  local hex=$1 text= i
  for ((i = 0; i < ${#hex}; i += 2)); do text+="\\x${hex:i:2}"; done
  printf '%b' "$text"
}
# What curl's configuration takes between double quotes.
quoted() { local text=${1//\\/\\\\}; printf '"%s"' "${text//\"/\\\"}"; }
human() {
  awk -v n="$1" 'BEGIN { split("B KiB MiB GiB TiB", u, " "); i = 1
    while (n >= 1024 && i < 5) { n /= 1024; i++ }; printf(i == 1 ? "%d %s" : "%.1f %s", n, u[i]) }'
}

# request NAME ARGS...: curl, with its configuration on file descriptor 9. Sets $http and $etag.
request() {
  local name=$1 line
  shift
  http=000 etag=
  curl -q --silent --show-error --globoff --proto =http,https --connect-timeout 30 \
    --speed-limit 1000 --speed-time 120 "${tls[@]}" --dump-header "$tmp/$name.head" \
    --header Expect: --config /dev/fd/9 "$@" 2>"$tmp/$name.said"
  curled=$?
  while IFS= read -r line; do
    line=${line%$'\r'}
    case $line in
      HTTP/*) http=${line#* } http=${http%% *} etag= ;;
      [Ee][Tt][Aa][Gg]:*) etag=${line#*:} etag=${etag//[\" ]/} ;;
    esac
  done 2>/dev/null <"$tmp/$name.head"
  return "$curled"
}
# again NUMBER: whether to try again, after a pause. What the store refuses is not asked twice.
again() {
  # curl could not write what it read, for the disk is full; or does not trust the store.
  case ${curled:-0} in 23 | 60) return 1 ;; esac
  case $http in
    408 | 429 | 5* | 000 | 2* | 1*) ;;
    400) [ "$code" = BadDigest ] || [ "$code" = RequestTimeout ] || return 1 ;;
    *) return 1 ;;
  esac
  [ "$1" -lt "$ATTEMPTS" ] || return 1
  sleep "$(((1 << ($1 > 5 ? 5 : $1)) / 2)).$((RANDOM % 10))"
}
# explain NAME: why a request failed, in words without its URL.
explain() {
  local said
  said=$(without_urls "$tmp/$1.said" 2>/dev/null)
  case $http in
    403) said="the store answered 403${code:+ $code}: the URL has expired, or its key was withdrawn" ;;
    404) said="the store answered 404${code:+ $code}: it is gone" ;;
    000) ;;
    '') said="it cannot be written here" ;;
    2*) said=${problem:-$said} ;;
    *) said="the store answered $http${code:+ $code}" ;;
  esac
  printf '%s' "${said:-no answer}"
}
give_up() {
  may_pass || printf '%s\n' "$1" >>"$tmp/lasting"
  printf '%s\n' "$1" >>"$tmp/failures"
  return 1
}
# may_pass: whether the store was away, or said to come later. No way to it (curl's 5 to 7), no
# answer in time (28, 52) and a connection that broke (16, 18, 55, 56, 92) are no refusal, nor where
# an answer had begun.
may_pass() {
  case ${http-} in
    408 | 429 | 5*) ;;
    000 | 1* | 2*)
      case ${curled-} in 5 | 6 | 7 | 16 | 18 | 28 | 52 | 55 | 56 | 92) ;; *) return 1 ;; esac ;;
    *) return 1 ;;
  esac
}
tell_if_passing() { [ -s "$tmp/lasting" ] || note passing; }

# --- tasks, several at a time

# Those of small files wait for the store most of the time (an answer of RGW in two packets on a
# connection that is kept takes 40 ms), so that more of them go together.
tasks=() small_tasks=() running=0
readonly MORE=3
run_all() {
  local next=0 shown=$SECONDS most_at_once=$((MORE * parallel)) small=${#small_tasks[@]}
  tasks=("${small_tasks[@]}" "${tasks[@]}")
  small_tasks=()
  rm -f -- "$tmp/done" "$tmp/failures"
  while [ "$next" -lt "${#tasks[@]}" ] || [ "$running" -gt 0 ]; do
    if [ -s "$tmp/failures" ] && [ "$phase" = in ]; then next=${#tasks[@]}; fi
    [ "$next" -lt "$small" ] || most_at_once=$parallel
    if [ "$next" -lt "${#tasks[@]}" ] && [ "$running" -lt "$most_at_once" ]; then
      # shellcheck disable=SC2086  # words that are ours
      ${tasks[next]} &
      next=$((next + 1)) running=$((running + 1))
      continue
    fi
    wait -n
    running=$((running - 1))
    if [ "$((SECONDS - shown))" -ge 15 ]; then
      shown=$SECONDS
      progress
    fi
  done
  # Should one have been counted twice, it is waited for all the same.
  wait
  tasks=()
}
passed() { printf '%s\n' "$1" >>"$tmp/done"; }
progress() {
  local done_bytes
  done_bytes=$(awk '{ n += $1 } END { printf "%.0f", n }' "$tmp/done" 2>/dev/null)
  say "$verb $(human "${done_bytes:-0}") of $(human "$total")"
}

# --- fetching

# The part of a file's name before it is whole.
partial() {
  part=${get_path[$1]%/*}/.airflow-$1$own_mark.part
}
# A small file is in a directory beside its place until then, under its own name: so that one process
# puts many in their places.
small_partial() {
  part=${get_path[$1]%/*}/.airflow-small$own_mark.part/${get_path[$1]##*/}
}
# span I OFFSET SIZE: a piece of an object, written in place. Of whole parts the MD5 is noted.
span() {
  local i=$1 offset=$2 size=$3 n=0 part range=() http etag code= problem= own=s$1.$2
  partial "$i"
  [ "$size" = "${get_size[i]}" ] || range=(--range "$offset-$((offset + size - 1))")
  while :; do
    n=$((n + 1)) problem=
    if {
      [ "$offset" = 0 ] || dd bs=1 count=0 seek="$offset" conv=notrunc status=none </dev/null
      request "$own" --fail "${range[@]}" 9< <(printf 'url = "%s"\n' "${get_url[i]}")
    } 1<>"$part"; then
      if [ -n "${range[*]}" ] && [ "$http" != 206 ]; then
        problem="the store sends no ranges"
      elif [ "$etag" != "${get_etag[i]}" ]; then
        give_up "${get_path[i]#./}: the object was overwritten while it was read"
        return
      else
        sum_span "$i" "$offset" "$size" && break
        problem="it could not be read back"
      fi
    fi
    again "$n" && continue
    give_up "${get_path[i]#./}: $(explain "$own")"
    return
  done
  passed "$size"
}
sum_span() {
  local i=$1 at=$2 end=$(($2 + $3)) step=${get_step[$1]%%,*} each left
  [ "${step:-0}" != 0 ] || return 0
  while [ "$at" -lt "$end" ]; do
    left=$((end - at < step ? end - at : step))
    each=$(sum_part "$part" "$at" "$left") || return
    [ ${#each} = 32 ] || return
    printf '%s' "$each" >"$tmp/m.$i.$((at / step))" || return
    at=$((at + left))
  done
}
# batch I...: small objects over one connection; what does not come out right is fetched alone.
batch() {
  local i part line n=0 http etag code= own=b$1 here=() files=()
  request "$own" 9< <(for i; do
    small_partial "$i"
    line=${part//\\/\\\\}
    printf 'url = "%s"\noutput = "%s"\n' "${get_url[i]}" "${line//\"/\\\"}"
  done)
  for i; do
    small_partial "$i"
    if [ -f "$part" ]; then here+=("$i") files+=("$part"); fi
  done
  while IFS= read -r line; do
    line=${line#\\}
    i=${here[n]} n=$((n + 1))
    [ "${line:0:32}" != "${get_etag[i]}" ] || printf '%s\n' "$i" >>"$tmp/right"
    passed "${get_size[i]}"
  done < <([ "${#files[@]}" = 0 ] || md5sum -- "${files[@]}")
}
# whole I: verify an object that was fetched, and give it its name.
whole() {
  local i=$1 part size=${get_size[$1]} sums= step k each is_right=
  partial "$i"
  if [ "$size" = 0 ]; then : >"$part"; fi
  if [ "$(size_of "$part")" != "$size" ]; then
    give_up "${get_path[i]#./}: it has another size than its object; is the disk full?"
    return
  fi
  for step in ${get_step[i]//,/ }; do
    if [ "$step" = 0 ]; then
      [ "$(sum <"$part")" = "${get_etag[i]}" ] && is_right=1
    else
      sums=
      for ((k = 0; k * step < size || k == 0; k++)); do
        each=
        [ "$step" != "${get_step[i]%%,*}" ] || each=$(cat "$tmp/m.$i.$k" 2>/dev/null)
        [ -n "$each" ] || each=$(sum_part "$part" "$((k * step))" "$((size - k * step < step ? size - k * step : step))")
        sums+=$each
      done
      [ "$(binary "$sums" | sum)-$k" = "${get_etag[i]}" ] && is_right=1
    fi
    [ -z "$is_right" ] || break
  done
  case ${get_step[i]} in '') is_right=1 ;; esac
  if [ -z "$is_right" ]; then
    printf '%s\n' "$i" >>"$tmp/wrong"
    return
  fi
  settle "$i"
}
settle() {
  local part
  partial "$1"
  mv -f -T -- "$part" "${get_path[$1]}" 2>"$tmp/mv.$1" ||
    give_up "${get_path[$1]#./}: it cannot be put there: $(without_urls "$tmp/mv.$1")"
}
# settle_small DIR I...: give files of one directory their names.
settle_small() {
  local dir=$1 i part parts=()
  shift
  for i; do
    small_partial "$i"
    parts+=("$part")
  done
  mv -f -t "$dir" -- "${parts[@]}" 2>/dev/null && return
  for i; do
    small_partial "$i"
    [ ! -f "$part" ] || mv -f -T -- "$part" "${get_path[i]}" 2>"$tmp/mv.$i" ||
      give_up "${get_path[i]#./}: it cannot be put there: $(without_urls "$tmp/mv.$i")"
  done
}
# make_dirs DIR...
make_dirs() {
  local i dirs=("$@")
  for ((i = 0; i < ${#dirs[@]}; i += 200)); do
    mkdir -p -- "${dirs[@]:i:200}" 2>"$tmp/mkdir" ||
      fail "$FAILED" "no directory for the inputs can be made: $(without_urls "$tmp/mkdir")"
  done
}
remove_small_dirs() {
  local i
  for ((i = 0; i < ${#small_dirs[@]}; i += 200)); do rm -rf -- "${small_dirs[@]:i:200}"; done
  small_dirs=()
}

readonly SMALL=$((8 * MIB)) BATCH=32
small_dirs=()
fetch_all() {
  local i j offset step span dir members=() bytes=0 tries left=("$@")
  local -A right groups known
  total=0 verb=fetched
  for i in "${left[@]}"; do total=$((total + get_size[i])); done
  for ((tries = 1; tries <= 3 && ${#left[@]} > 0; tries++)); do
    rm -f -- "$tmp/right" "$tmp/wrong"
    members=() bytes=0
    for i in "${left[@]}"; do
      partial "$i"
      [ ! -e "$part" ] || rm -f -- "$part"
      if [ "${get_size[i]}" = 0 ]; then continue; fi
      if [ "${get_step[i]}" = 0 ] && [ "${get_size[i]}" -le "$SMALL" ] && [ "$tries" = 1 ]; then
        members+=("$i") bytes=$((bytes + get_size[i]))
        small_partial "$i"
        dir=${part%/*}
        if [ -z "${known[$dir]-}" ]; then known[$dir]=1 small_dirs+=("$dir"); fi
        if [ "${#members[@]}" -ge "$BATCH" ] || [ "$bytes" -ge "$((4 * SMALL))" ]; then
          small_tasks+=("batch ${members[*]}")
          members=() bytes=0
        fi
        continue
      fi
      step=${get_step[i]%%,*} span=$piece
      if [ "${step:-0}" -gt 0 ]; then span=$((step < piece ? piece / step * step : step)); fi
      for ((offset = 0; offset < get_size[i]; offset += span)); do
        j=$((get_size[i] - offset))
        tasks+=("span $i $offset $((j < span ? j : span))")
      done
    done
    [ "${#members[@]}" = 0 ] || small_tasks+=("batch ${members[*]}")
    make_dirs "${small_dirs[@]}"
    run_all
    stop_if_failed
    right=() groups=()
    while IFS= read -r i; do right[$i]=1; done 2>/dev/null <"$tmp/right"
    for i in "${left[@]}"; do
      if [ -n "${right[$i]-}" ]; then
        groups[${get_path[i]%/*}]+="$i "
      elif [ "${get_step[i]}" = 0 ] && [ "${get_size[i]}" -le "$SMALL" ] && [ "$tries" = 1 ] &&
        [ "${get_size[i]}" -gt 0 ]; then
        printf '%s\n' "$i" >>"$tmp/wrong"
      else
        tasks+=("whole $i")
      fi
    done
    for dir in "${!groups[@]}"; do
      # shellcheck disable=SC2206  # numbers
      members=(${groups[$dir]})
      for ((j = 0; j < ${#members[@]}; j += 200)); do settle_small "$dir" "${members[@]:j:200}"; done
    done
    remove_small_dirs
    stop_if_failed
    run_all
    stop_if_failed
    left=()
    while IFS= read -r i; do left+=("$i"); done 2>/dev/null <"$tmp/wrong"
    rm -f -- "$tmp"/m.*
  done
  [ "${#left[@]}" = 0 ] || fail "$FAILED" "${get_path[${left[0]}]#./}: what was fetched has another checksum than its object (ETag ${get_etag[${left[0]}]}), each time; ${#left[@]} in all"
}
stop_if_failed() {
  [ -s "$tmp/failures" ] || return 0
  local first count
  IFS= read -r first <"$tmp/failures"
  tell_if_passing
  count=$(wc -l <"$tmp/failures")
  fail "$FAILED" "$first$([ "$count" = 1 ] || printf ' (and %d more)' "$((count - 1))")"
}
# is_there I: whether the file is there already with the object's content.
is_there() {
  local i=$1 part step k sums size=${get_size[$1]}
  part=${get_path[i]}
  [ -f "$part" ] && [ "$(size_of "$part")" = "$size" ] || return
  for step in ${get_step[i]//,/ }; do
    if [ "$step" = 0 ]; then
      [ "$(sum <"$part")" != "${get_etag[i]}" ] || return 0
      continue
    fi
    sums=
    for ((k = 0; k * step < size; k++)); do
      sums+=$(sum_part "$part" "$((k * step))" "$((size - k * step < step ? size - k * step : step))")
    done
    [ "$(binary "$sums" | sum)-$k" != "${get_etag[i]}" ] || return 0
  done
  return 1
}
compare() { if is_there "$1"; then printf '%s\n' "$1" >>"$tmp/there"; fi; }

fetch() {
  local i dir todo=() started=$SECONDS bytes=0 dirs=() by_size=0
  declare -A there=() seen=()
  rm -f -- "$tmp/there"
  for i in "${!get_path[@]}"; do
    [ ! -f "${get_path[i]}" ] || tasks+=("compare $i")
  done
  run_all
  while IFS= read -r i; do there[$i]=1; done 2>/dev/null <"$tmp/there"
  for i in "${!get_path[@]}"; do
    [ -z "${there[$i]-}" ] || continue
    todo+=("$i") bytes=$((bytes + get_size[i]))
    [ -n "${get_step[i]}" ] || by_size=$((by_size + 1))
    dir=${get_path[i]%/*}
    if [ "$dir" != "${get_path[i]}" ] && [ -z "${seen[$dir]-}" ]; then
      seen[$dir]=1 dirs+=("$dir")
    fi
  done
  make_dirs "${dirs[@]}"
  fetch_all "${todo[@]}"
  note "fetched$TAB${#todo[@]}$TAB$bytes$TAB$((SECONDS - started))$TAB${#there[@]}"
  say "fetched ${#todo[@]} objects, $(human "$bytes"), in $((SECONDS - started)) s, $(
    [ "$by_size" = 0 ] && printf 'all verified' || printf '%d by their size only' "$by_size")$(
    [ "${#there[@]}" = 0 ] || printf '; %d were there' "${#there[@]}")"
}

# --- delivering

# send_put I, send_part I NUMBER OFFSET SIZE, send_post I NAME: one request each.
send_put() {
  local i=$1 n=0 hash size http etag code= problem= own=p$1 path=${put_path[$1]}
  while :; do
    n=$((n + 1)) code= problem=
    size=$(size_of "$path") && hash=$(sum <"$path") || { give_up "${put_path[i]#./}: it cannot be read"; return; }
    if request "$own" --output "$tmp/$own.body" --upload-file "$path" \
      --header "Content-MD5: $(binary "$hash" | base64)" \
      9< <(printf 'url = "%s"\n' "${put_url[i]}") && is_taken "$own" "$hash"; then
      printf 'put\t%s\t%s\t%s\n' "$i" "$size" "$hash" >>"$tmp/receipts"
      passed "$size"
      return
    fi
    again "$n" && continue
    give_up "${put_path[i]#./}: $(explain "$own")"
    return
  done
}
send_part() {
  local i=$1 number=$2 offset=$3 size=$4 n=0 hash http etag code= problem= own=u$1.$2
  while :; do
    n=$((n + 1)) code= problem=
    hash=$(sum_part "${put_path[i]}" "$offset" "$size")
    if dd if="${put_path[i]}" bs=1M iflag=skip_bytes,count_bytes skip="$offset" count="$size" \
      status=none | request "$own" --output "$tmp/$own.body" --upload-file - \
      --header Transfer-Encoding: --header "Content-Length: $size" \
      --header "Content-MD5: $(binary "$hash" | base64)" \
      9< <(part_url "$i" "$number") && take_result "$own" "$hash"; then
      printf 'part\t%s\t%s\t%s\t%s\n' "$i" "$number" "$size" "$hash" >>"$tmp/receipts"
      passed "$size"
      return
    fi
    take_result "$own" "$hash"
    again "$n" && continue
    give_up "${put_path[i]#./}: $(explain "$own")"
    return
  done
}
part_url() { printf 'url = "%s"\n' "${part_urls[$((${put_first[$1]} + $2 - 1))]}"; }
send_post() {
  local i=$1 number=$2 n=0 hash size http etag code= problem= own=t$1.$2 path field
  path=${tree_files[$2]}
  while :; do
    n=$((n + 1)) code= problem=
    size=$(size_of "${put_path[i]}$path") && hash=$(sum <"${put_path[i]}$path") ||
      { give_up "${put_path[i]#./}$path: it cannot be read"; return; }
    if request "$own" --output "$tmp/$own.body" 9< <(
      printf 'url = "%s"\n' "${put_url[i]}"
      printf 'form-string = %s\n' "$(quoted "key=${put_key[i]}$path")"
      while IFS= read -r field; do printf 'form-string = %s\n' "$(quoted "$field")"; done <<<"${put_form[i]}"
      printf 'form = "file=@-;filename=file"\n'
    ) <"${put_path[i]}$path" && is_taken "$own" "$hash"; then
      printf 'file\t%s\t%s\t%s\t%s\n' "$i" "$size" "$hash" "$path" >>"$tmp/receipts"
      passed "$size"
      return
    fi
    again "$n" && continue
    give_up "${put_path[i]#./}$path: $(explain "$own")"
    return
  done
}
# send_posts I NUMBER...: small files over one connection, for a process and a connection for each
# take ten times as long; what does not come out right is sent alone.
send_posts() {
  local i=$1 number n=0 http etag code= problem= curled= own=q$1.$2 hash
  local files=() sizes=() hashes=() left=() made=()
  shift
  for number; do files+=("${put_path[i]}${tree_files[number]}"); done
  mapfile -t sizes < <(stat -L -c %s -- "${files[@]}" 2>/dev/null)
  mapfile -t hashes < <(md5sum -- "${files[@]}" 2>/dev/null)
  if [ "${#sizes[@]}" = "$#" ] && [ "${#hashes[@]}" = "$#" ]; then
    curl -q --silent --show-error --config /dev/fd/9 >/dev/null 2>"$tmp/$own.said" 9< <(forms "$own" "$i" "$@")
  fi
  for number; do
    hash=${hashes[n]:0:32} code= problem=
    if [ -n "$hash" ] && take_result "$own.$n" "$hash"; then
      printf 'file\t%s\t%s\t%s\t%s\n' "$i" "${sizes[n]}" "$hash" "${tree_files[number]}" >>"$tmp/receipts"
      passed "${sizes[n]}"
    else
      left+=("$number")
    fi
    made+=("$tmp/$own.$n.head" "$tmp/$own.$n.body")
    n=$((n + 1))
  done
  rm -f -- "${made[@]}"
  for number in "${left[@]}"; do send_post "$i" "$number"; done
}
# forms NAME I NUMBER...: curl's configuration for these files, which takes all options for each.
forms() {
  local own=$1 i=$2 number n=0 field same= text place=${tmp//\\/\\\\}
  place=${place//\"/\\\"}
  shift 2
  same=$'globoff\nproto = "=http,https"\nconnect-timeout = 30\nspeed-limit = 1000\nspeed-time = 120\nheader = "Expect:"\n'
  case ${tls[0]-} in
    --cacert) same+="cacert = \"$place/cacert\""$'\n' ;;
    --insecure) same+=$'insecure\n' ;;
  esac
  same+="url = \"${put_url[i]}\""$'\n'
  while IFS= read -r field; do same+="form-string = $(quoted "$field")"$'\n'; done <<<"${put_form[i]}"
  for number; do
    [ "$n" = 0 ] || printf 'next\n'
    text=${put_key[i]}${tree_files[number]} text=${text//\\/\\\\} text=${text//\"/\\\"}
    printf 'dump-header = "%s"\noutput = "%s"\n' "$place/$own.$n.head" "$place/$own.$n.body"
    # The key comes first: some stores take fields behind it only.
    printf 'form-string = "key=%s"\n%s' "$text" "$same"
    printf 'form = "file=@%s;filename=file;type=application/octet-stream"\n' "${put_path[i]}${tree_files[number]}"
    n=$((n + 1))
  done
}
# is_taken NAME HASH: whether the store has taken a body, and has it as it was sent.
is_taken() {
  local body=
  IFS= read -r -d '' -n 4000 body 2>/dev/null <"$tmp/$1.body"
  [[ $body =~ \<Code\>([A-Za-z]+)\</Code\> ]] && code=${BASH_REMATCH[1]}
  case $http in 2*) ;; *) return 1 ;; esac
  if [ -z "$etag" ] && [[ $body =~ \<ETag\>[^0-9a-f]*(\&quot\;)?([0-9a-f]{32}) ]]; then
    etag=${BASH_REMATCH[2]}
  fi
  [ "$etag" = "$2" ] && return
  problem="the store has other bytes than were sent"
  return 1
}
# A pipe's request is a process of its own, of which only the files tell.
take_result() {
  local line
  http=000 etag= curled=0
  IFS= read -r line 2>/dev/null <"$tmp/$1.said"
  [[ $line =~ ^curl:\ \(([0-9]+)\) ]] && curled=${BASH_REMATCH[1]}
  while IFS= read -r line; do
    line=${line%$'\r'}
    case $line in
      HTTP/*) http=${line#* } http=${http%% *} etag= ;;
      [Ee][Tt][Aa][Gg]:*) etag=${line#*:} etag=${etag//[\" ]/} ;;
    esac
  done 2>/dev/null <"$tmp/$1.head"
  is_taken "$1" "$2"
}

tree_files=() stats=()
plan_put() {
  local i=$1 size step number path=${put_path[$1]}
  if [ -d "$path" ]; then
    give_up "${path#./}: it is a directory; to deliver all below it, end its path and its url with a slash"
    return
  elif [ ! -e "$path" ]; then
    note "missing$TAB$i"
    [ "${put_optional[i]}" = 1 ] || missing+=("${path#./}")
    return
  elif [ ! -f "$path" ]; then
    give_up "${path#./}: it is no regular file"
    return
  fi
  size=$(size_of "$path") || { give_up "${path#./}: it cannot be read"; return; }
  stats+=("$i$TAB$(stat -L -c '%s %y' -- "$path")")
  total=$((total + size)) count=$((count + 1))
  if [ "$size" -le "$single" ] || [ "${put_parts[i]}" = 0 ]; then
    tasks+=("send_put $i")
    return
  fi
  step=$(((size + put_parts[i] - 1) / put_parts[i]))
  step=$(((step + MIB - 1) / MIB * MIB))
  step=$((step < single ? single : step))
  note "parts$TAB$i$TAB$size$TAB$step"
  for ((number = 1; (number - 1) * step < size; number++)); do
    tasks+=("send_part $i $number $(((number - 1) * step)) $((size - (number - 1) * step < step ? size - (number - 1) * step : step))")
  done
}
plan_tree() {
  local i=$1 entry size found=0 path=${put_path[$1]} members=() bytes=0
  if [ -d "$path" ]; then
    while IFS= read -r -d '' entry; do
      size=${entry%%"$TAB"*} entry=${entry#*"$TAB"}
      case $entry in
        *[[:cntrl:]]*) give_up "${path#./}$(printf %q "$entry"): its name has a control character"; continue ;;
        .airflow-*.part | */.airflow-*.part | .airflow-*.part/* | */.airflow-*.part/*) continue ;;
      esac
      if [ "$size" -gt "$most" ]; then
        give_up "${path#./}$entry: it has more than $(human "$most"); declare it as an output of its own"
        continue
      fi
      # What has a meaning in curl's option goes another way.
      if [ "$size" -le "$SMALL" ] && [[ $path$entry != *[\;,\"\\[:space:]]* ]]; then
        members+=("${#tree_files[@]}") bytes=$((bytes + size))
        if [ "${#members[@]}" -ge "$BATCH" ] || [ "$bytes" -ge "$((4 * SMALL))" ]; then
          small_tasks+=("send_posts $i ${members[*]}")
          members=() bytes=0
        fi
      else
        tasks+=("send_post $i ${#tree_files[@]}")
      fi
      tree_files+=("$entry")
      found=$((found + 1)) total=$((total + size)) count=$((count + 1))
    done < <(find -L "$path" -type f -printf '%s\t%P\0' 2>"$tmp/find")
    [ "${#members[@]}" = 0 ] || small_tasks+=("send_posts $i ${members[*]}")
    [ ! -s "$tmp/find" ] || give_up "${path#./}: it cannot be read whole: $(without_urls "$tmp/find")"
  fi
  if [ "$found" = 0 ]; then
    note "missing$TAB$i"
    [ "${put_optional[i]}" = 1 ] || missing+=("${path#./}")
  fi
}
deliver() {
  local i each started=$SECONDS missing=() total=0 count=0 verb=delivered problems=()
  : >"$tmp/receipts"
  : >"$tmp/planned"
  for i in "${!put_path[@]}"; do
    case ${put_kind[i]} in tree) plan_tree "$i" ;; *) plan_put "$i" ;; esac
  done
  # What is wrong with some keeps nobody from delivering the others.
  [ ! -s "$tmp/failures" ] || mv -f -- "$tmp/failures" "$tmp/planned"
  run_all
  for each in "${stats[@]}"; do
    i=${each%%"$TAB"*}
    [ "$(stat -L -c '%s %y' -- "${put_path[i]}" 2>/dev/null)" = "${each#*"$TAB"}" ] ||
      printf '%s: it was changed while it was sent\n' "${put_path[i]#./}" |
        tee -a -- "$tmp/lasting" >>"$tmp/failures"
  done
  cat -- "$tmp/receipts" >>"$receipts"
  mapfile -t problems < <(cat -- "$tmp/planned" "$tmp/failures" 2>/dev/null)
  say "delivered $(human "$total") in $count files in $((SECONDS - started)) s$(
    [ "${#problems[@]}" = 0 ] || printf '; %d could not be' "${#problems[@]}")"
  if [ "${#problems[@]}" -gt 0 ]; then
    tell_if_passing
    fail "$FAILED" "${problems[0]}$([ "${#problems[@]}" = 1 ] || printf ' (and %d more)' "$((${#problems[@]} - 1))")"
  fi
  note "delivered$TAB$count$TAB$total$TAB$((SECONDS - started))"
  if [ "${#missing[@]}" -gt 0 ]; then
    fail "$FAILED" "the job did not write ${missing[0]}$([ "${#missing[@]}" = 1 ] || printf ' (nor %d more of its outputs)' "$((${#missing[@]} - 1))")"
  fi
}

# --- the file of URLs

get_path=() get_size=() get_etag=() get_step=() get_url=()
put_kind=() put_path=() put_optional=() put_url=() put_key=() put_form=() put_parts=() put_first=()
part_urls=() tls=() kept=()
parallel=4 piece=$((64 * MIB)) single=$((32 * MIB)) most=$((5 * 1024 * MIB)) on_failure=0 is_whole=
read_urls() {
  local kind a b c d e last=-1
  while IFS=$TAB read -r kind a b c d e; do
    case $kind in
      set) case $a in
        parallel) parallel=$b ;;
        piece) piece=$b ;;
        single) single=$b ;;
        most) most=$b ;;
        on_failure) on_failure=$b ;;
        insecure) tls=(--insecure) ;;
      esac ;;
      cacert) printf '%s\n' "$a" | base64 -d >"$tmp/cacert" && tls=(--cacert "$tmp/cacert") ;;
      error) fail "$FAILED" "$a" ;;
      get)
        # shellcheck disable=SC2206  # `-` is nothing
        get_path+=("$a") get_size+=("$b") get_etag+=("$c") get_step+=("${d#-}") get_url+=("$e")
        continue
        ;;
      put | tree)
        last=$((last + 1))
        put_kind+=("$kind") put_path+=("$a") put_optional+=("$b") put_url+=("$c") put_key+=("${d#-}")
        put_form+=("") put_parts+=(0) put_first+=("${#part_urls[@]}")
        ;;
      field) put_form[last]+=${put_form[last]:+$'\n'}$a ;;
      part) part_urls+=("$a") put_parts[last]=$((put_parts[last] + 1)) ;;
      end) is_whole=1 ;;
    esac
    kept+=("$kind${a:+$TAB$a}${b:+$TAB$b}${c:+$TAB$c}${d:+$TAB$d}${e:+$TAB$e}")
  done <"$urls"
  [ -n "$is_whole" ] || fail "$FAILED" "the file of URLs is not whole"
}
is_ours() {
  local first=
  { IFS= read -r first <"$urls"; } 2>/dev/null
  [ "$first" = "csc-staging 1 $epoch" ]
}
await_urls() {
  local own=$control/staging.wanted.$$ end=$((SECONDS + limit)) told=
  printf '%s\n' "$epoch" >"$own" && mv -f -T -- "$own" "$control/staging.wanted" ||
    fail "$FAILED" "$control cannot be written"
  until is_ours; do
    [ ! -e "$control/cancel" ] || exit 143
    [ -n "$told" ] || [ "$SECONDS" -lt 10 ] || { told=1; say "waiting for Airflow to issue URLs"; }
    [ "$SECONDS" -lt "$end" ] ||
      fail "$LATE" "Airflow issued no URLs within $limit s; it or this site was away, or it cannot reach the object store. Its task's log tells more. A longer staging_timeout waits longer"
    sleep 1
  done
}
keep_outputs() {
  if [ "${#put_path[@]}" = 0 ]; then
    rm -f -- "$urls"
  else
    (umask 077 && printf '%s\n' "csc-staging 1 $epoch" "${kept[@]:1}" >"$urls.new") &&
      mv -f -T -- "$urls.new" "$urls"
  fi
}

for each in curl md5sum dd stat base64 awk find; do
  command -v "$each" >/dev/null || fail "$FAILED" "there is no $each on $HOSTNAME, by which files would be staged"
done
tmp=$(mktemp -d "${TMPDIR:-/tmp}/airflow-staging.XXXXXX" 2>/dev/null) ||
  tmp=$(mktemp -d "$control/staging.tmp.XXXXXX") ||
  fail "$FAILED" "neither ${TMPDIR:-/tmp} nor $control can be written"
case $phase in
  in)
    (umask 077 && printf 'epoch\t%s\n' "$epoch" >"$receipts") || fail "$FAILED" "$control cannot be written"
    await_urls
    read_urls
    [ "${#get_path[@]}" = 0 ] || fetch
    keep_outputs || fail "$FAILED" "$control cannot be written"
    ;;
  out)
    is_ours || exit 0
    read_urls
    if [ "$limit" != 0 ] && [ "$on_failure" != 1 ] || [ -e "$control/cancel" ]; then
      exit 0
    fi
    deliver
    ;;
esac
exit 0
