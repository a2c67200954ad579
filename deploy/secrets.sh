#!/usr/bin/env bash
# Random passwords of the containers (deploy/compose.yaml), a file each in deploy/secrets; what is there stays.
# The folder is closed to others; the files are open within it, as the containers' users have to read them.
set -euo pipefail
cd "$(dirname "$0")"

mkdir -p -m 0700 secrets
umask 022
random() { head -c 24 /dev/urandom | base64 | tr '+/' '-_'; }
put() { # NAME TEXT
    printf '%s\n' "$2" >"secrets/$1.new"
    mv "secrets/$1.new" "secrets/$1"
}

if [ ! -s secrets/postgres_password ] || [ ! -s secrets/fvlm_database_url ]; then
    password=$(random)
    put fvlm_database_url "postgresql+psycopg://node:$password@postgres/node"
    put postgres_password "$password"
fi
if [ ! -s secrets/redis_conf ] || [ ! -s secrets/fvlm_broker_url ]; then
    password=$(random)
    put fvlm_broker_url "redis://:$password@redis:6379/0"
    put redis_conf "requirepass $password
save \"\"
appendonly no
protected-mode yes"
fi
if [ ! -s secrets/orthanc_token ]; then put orthanc_token "$(random)"; fi
