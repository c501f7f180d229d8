#!/usr/bin/env bash
# The story of docs/recovery.md, played on a MariaDB server of its own: docs/recovery.sh [DAYMEND].
# It prints the commands and what they say; `# …` are remarks. Needs mariadb-server and mariadb-client.
#
# 195 of 15,446 patients vanish with what hangs on them in eight tables; six come back under new ids, as
# somebody reads their cards again; one card's number goes to a patient who was there before.
set -euo pipefail
cd "$(dirname "$0")/.."
root=$PWD
export PATH
PATH="$(cd "$(dirname "${1:-target/debug/daymend}")" && pwd):$PATH"
dir="$(mktemp -d "${TMPDIR:-/tmp}/daymend-story.XXXXXX")"
port="${PORT:-23416}"
pids=()
finish() {
    for pid in "${pids[@]}"; do kill "$pid" 2>/dev/null || true; done
    for pid in "${pids[@]}"; do wait "$pid" 2>/dev/null || true; done
    rm -rf "$dir"
}
trap finish EXIT

mariadb-install-db --no-defaults "--user=$(id -un)" --auth-root-authentication-method=normal --skip-test-db \
    "--datadir=$dir/data" "--tmpdir=$dir" >/dev/null 2>&1
mariadbd --no-defaults "--user=$(id -un)" "--datadir=$dir/data" "--tmpdir=$dir" "--socket=$dir/socket" \
    "--pid-file=$dir/pid" --bind-address=127.0.0.1 "--port=$port" --skip-log-bin >"$dir/log" 2>&1 &
pids+=($!)
sql() { mariadb --no-defaults "--socket=$dir/socket" --user=root "$@"; }
for _ in $(seq 600); do sql -e "SELECT 1" >/dev/null 2>&1 && break || sleep 0.1; done
sql -e "CREATE DATABASE lab; CREATE USER operator@'%' IDENTIFIED BY 'operator'; GRANT ALL ON lab.* TO operator@'%'"
sql lab <"$root/tests/fixtures/source-schema.mysql.sql"
export DAYMEND_DATABASE_URL="mysql://operator:operator@127.0.0.1:$port/lab" DAYMEND_SNAPSHOT_STORE="$dir/snapshots"
cd "$dir"
now=2026-06-16T12:00:00Z
daymend --log error migrate >/dev/null

sql lab <<'SQL'
CREATE TABLE people (id BIGINT NOT NULL PRIMARY KEY, name VARCHAR(80) NOT NULL, created_at DATETIME(6) NOT NULL);
CREATE TABLE patients (id BIGINT NOT NULL PRIMARY KEY, national_id VARCHAR(20) NULL UNIQUE,
    FOREIGN KEY (id) REFERENCES people (id));
CREATE TABLE appointments (id BIGINT NOT NULL PRIMARY KEY, patient_id BIGINT NOT NULL, at DATETIME NULL,
    FOREIGN KEY (patient_id) REFERENCES patients (id));
CREATE TABLE contacts (id BIGINT NOT NULL PRIMARY KEY, patient_id BIGINT NOT NULL, phone VARCHAR(30) NULL);
CREATE TABLE remarks (id BIGINT NOT NULL PRIMARY KEY, owner_type VARCHAR(20) NOT NULL, owner_id VARCHAR(20) NOT NULL,
    body VARCHAR(80) NOT NULL);
ALTER TABLE billing ADD COLUMN patient_id BIGINT NULL, ADD FOREIGN KEY (patient_id) REFERENCES patients (id);

INSERT INTO labs VALUES (1, 'City', 'Asia/Kolkata', 1), (2, 'Harbour', 'Europe/Brussels', 1);
INSERT INTO allTests SELECT seq, 2 - seq % 2, CONCAT('Test ', seq), seq % 5 + 1 FROM seq_1_to_40;
INSERT INTO people SELECT seq, CONCAT('Person ', seq), '2026-01-02 03:04:05.000006' FROM seq_3000_to_18445;
INSERT INTO patients SELECT id, CONCAT(LPAD(id * 37 % 1000000, 6, '0'), '-', LPAD(id % 1000, 3, '0')) FROM people;
INSERT INTO billing SELECT id, IF(id % 3, 1, 2), '2026-06-01 06:00:00' + INTERVAL id % 10 DAY + INTERVAL id % 600 MINUTE, 0,
    '2026-06-11', id FROM patients;
INSERT INTO billingInfo SELECT id, id % 7 + 1, id % 3 + 1, id % 4 + 1 FROM billing;
INSERT INTO labReportRelation SELECT id, id, id % 20 * 2 + lab_id, 0 FROM billing;
INSERT INTO labReportRelation SELECT id + 100000, id, (id + 7) % 20 * 2 + lab_id, 0 FROM billing;
INSERT INTO collectedSample SELECT id, id, id % 6 + 1, id % 3 > 0 FROM billing;
INSERT INTO appointments SELECT id, id, '2026-07-01 09:00:00' FROM patients;
INSERT INTO contacts SELECT id, id, CONCAT('+32 ', id) FROM patients;
INSERT INTO remarks SELECT id, IF(id % 2, 'person', 'patient'), id, 'fasting' FROM patients;
SQL
cat >relations.toml <<'TOML'
[[identity]]
table = "patients"
columns = "national_id"

[[reference]]
table = "contacts"
columns = "patient_id"
parent = "patients"

[[reference]]
table = "remarks"
columns = "owner_id"
type_column = "owner_type"
parents = { patient = "patients", person = "people" }
TOML
daymend --log error --now "$now" worker >worker.log 2>&1 &
pids+=($!)
recompute() { daymend --log error --now "$now" repair --day 2026-06-01 --to 2026-06-12 --max-shrink off --wait >/dev/null 2>&1; }
recompute

# Prints a command, runs it, and says how it ended where that is not 0.
say() {
    printf '\n$ %s\n' "$1"
    local code=0
    (eval "$1") 2>/dev/null || code=$?
    [ "$code" = 0 ] || echo "# exit code $code"
}
tables="--table people --table patients --table appointments --table contacts --table remarks --table labs
    --table allTests --table billing --table billingInfo --table labReportRelation --table collectedSample"
take() { daymend --log error snapshot take $tables --json 2>/dev/null | python3 -c 'import json, sys; print(json.load(sys.stdin)["name"])'; }
snapshot=$(take)

# What is lost: 188, the six who come again, and the one whose number is given away. The next snapshot is
# after that, and the summary has followed.
sql lab <<'SQL'
CREATE TABLE cards AS SELECT id, national_id AS card FROM patients
    WHERE id IN (4012, 4437, 5150, 7264, 9350, 11093, 6655);
CREATE TEMPORARY TABLE gone (id BIGINT NOT NULL PRIMARY KEY)
    SELECT 3001 + seq * 80 AS id FROM seq_0_to_187 UNION SELECT 4012 UNION SELECT 4437 UNION SELECT 5150
    UNION SELECT 7264 UNION SELECT 9350 UNION SELECT 11093 UNION SELECT 6655;
DELETE FROM remarks WHERE owner_id IN (SELECT id FROM gone);
DELETE FROM contacts WHERE patient_id IN (SELECT id FROM gone);
DELETE FROM appointments WHERE patient_id IN (SELECT id FROM gone);
DELETE FROM collectedSample WHERE billing_id IN (SELECT id FROM gone);
DELETE FROM labReportRelation WHERE billing_id IN (SELECT id FROM gone);
DELETE FROM billingInfo WHERE billing_id IN (SELECT id FROM gone);
DELETE FROM billing WHERE id IN (SELECT id FROM gone);
DELETE FROM patients WHERE id IN (SELECT id FROM gone);
DELETE FROM people WHERE id IN (SELECT id FROM gone);
SQL
take >/dev/null
recompute
sql lab <<'SQL'
INSERT INTO people SELECT id * 10, CONCAT('Person ', id, ', again'), '2026-06-15 08:00:00' FROM cards WHERE id <> 6655;
INSERT INTO patients SELECT id * 10, card FROM cards WHERE id <> 6655;
UPDATE patients SET national_id = (SELECT card FROM cards WHERE id = 6655) WHERE id = 12148;
DROP TABLE cards;
SQL

say "daymend snapshot list"
say "daymend snapshot diff --since $snapshot --relations relations.toml --samples 2"
say "daymend snapshot restore $snapshot --missing --relations relations.toml --samples 1"
say "cat $snapshot.map.csv"
say "daymend --now $now snapshot restore $snapshot --missing --relations relations.toml --samples 1 --apply --wait"
say "daymend --now $now audit --from 2026-06-01 --to 2026-06-14"
say "daymend snapshot diff $snapshot --relations relations.toml --samples 2"
say "daymend --now $now snapshot undo $snapshot.undo.jsonl --wait"
