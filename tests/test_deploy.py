"What is shipped for containers, clusters and watching is whole, names what exists, and holds no secret."

import json
import os
import re
import shutil
import subprocess
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
import yaml
from cryptography import x509
from cryptography.hazmat.primitives.serialization import load_pem_private_key

from trading.ops.telemetry import METRICS

ROOT = Path(__file__).parent.parent
DEPLOY = ROOT / "deploy"
INSIDE = "/work"  # the folder of the image
TEXTS = [p for p in sorted(DEPLOY.rglob("*")) if p.is_file() and p.suffix != ".pyc"]


def documents(path: Path) -> list:
    "Return the documents of a YAML file."
    return [d for d in yaml.safe_load_all(path.read_text()) if d is not None]


def compose(*names: str) -> dict:
    "Merge compose files as the engine does for what is looked at here."
    merged: dict = {"services": {}, "volumes": {}, "secrets": {}, "networks": {}}
    for name in names:
        found = documents(DEPLOY / name)[0]
        for part in ("volumes", "secrets", "networks"):
            merged[part] |= found.get(part) or {}
        for service, given in found["services"].items():
            known = merged["services"].setdefault(service, {})
            for key, value in given.items():
                known[key] = known[key] + value if key in ("volumes", "secrets") and key in known else value if not isinstance(value, dict) else {
                    **known.get(key, {}), **value}
    return merged


STACKS = [("compose.yaml",), ("compose.yaml", "compose.full.yaml")]


def test_every_file_parses():
    for path in TEXTS:
        if path.suffix in (".yaml", ".yml"):
            assert documents(path), path
        elif path.suffix == ".json":
            json.loads(path.read_text())


@pytest.mark.parametrize("files", STACKS, ids=["standard", "full"])
def test_compose_files_refer_to_what_exists(files):
    stack = compose(*files)
    known = {"image", "build", "restart", "read_only", "cap_drop", "security_opt", "tmpfs", "working_dir", "volumes", "environment",
             "secrets", "logging", "entrypoint", "command", "ports", "networks", "cap_add", "depends_on", "healthcheck"}
    for name, service in stack["services"].items():
        assert set(service) <= known and ("image" in service), (name, set(service) - known)
        for volume in service.get("volumes", []):
            source = volume.split(":")[0]
            if source.startswith("./"):
                assert (DEPLOY / source).exists(), f"{name}: {source}"
            elif not source.startswith("/"):
                assert source in stack["volumes"], f"{name}: {source}"
        assert set(service.get("secrets", [])) <= set(stack["secrets"]) and set(service.get("networks", [])) <= set(stack["networks"]), name
        assert set(service.get("depends_on", [])) <= set(stack["services"]), name
        assert all(port.startswith("127.0.0.1:") for port in service.get("ports", [])), f"{name} is open to the network"
        if "build" in service:
            assert (DEPLOY / service["build"]["context"] / service["build"]["dockerfile"]).exists()
    assert {"api", "worker", "postgres"} <= set(stack["services"])
    if len(files) > 1:
        assert {"prefect", "prometheus", "grafana", "alertmanager", "loki", "dask-scheduler"} <= set(stack["services"])


def test_versions_of_images_are_named():
    for path in TEXTS:
        for image in re.findall(r"^\s*image: (\S+)$|^FROM (\S+)", path.read_text(), re.MULTILINE):
            name = next(filter(None, image))
            assert ":" in name or name.startswith("$"), f"{path.name}: {name}"
    locked = re.search(r"^prefect==(\S+)", (ROOT / "requirements" / "schedule.txt").read_text(), re.MULTILINE)[1]
    assert f"prefecthq/prefect:{locked}-" in (DEPLOY / "compose.full.yaml").read_text()
    assert documents(DEPLOY / "prefect" / "prefect.yaml")[0]["prefect-version"] == locked


def test_the_image_runs_as_nobody_special_and_copies_what_is_there():
    text = (DEPLOY / "Dockerfile").read_text()
    assert re.findall(r"^USER (\S+)", text, re.MULTILINE)[-1] == "10001:10001" and "HEALTHCHECK" in text
    for sources in re.findall(r"^COPY (?!--from)(.+) \S+$", text, re.MULTILINE):
        for source in sources.split():
            assert (ROOT / source).exists(), source
            allowed = (DEPLOY / "Dockerfile.dockerignore").read_text()
            assert f"!{source}" in allowed, f"{source} is kept from the builder"


@pytest.mark.skipif(not (ROOT / ".venv/bin/hadolint").exists() and not shutil.which("hadolint"), reason="hadolint is not installed")
def test_hadolint_finds_nothing():
    tool = shutil.which("hadolint") or str(ROOT / ".venv/bin/hadolint")
    for path in DEPLOY.rglob("Dockerfile"):
        done = subprocess.run([tool, str(path)], capture_output=True, text=True)
        assert done.returncode == 0, done.stdout


def metrics_in(expression: str) -> set[str]:
    "Return our metrics in an expression, without the endings that a histogram adds."
    return {re.sub(r"_(bucket|count|sum)$", "", name) if name not in METRICS else name for name in re.findall(r"\bcarnet_\w+", expression)}


def expressions() -> dict[str, list[str]]:
    "Return every expression of dashboards and rules by file."
    found = {p.name: [t["expr"] for panel in json.loads(p.read_text())["panels"] for t in panel["targets"]]
             for p in (DEPLOY / "grafana" / "dashboards").glob("*.json")}
    rules = documents(DEPLOY / "prometheus" / "rules.yml")[0]
    return found | {"rules.yml": [rule["expr"] for group in rules["groups"] for rule in group["rules"]]}


def test_dashboards_and_rules_use_the_documented_names_and_labels():
    used = set()
    for file, lines in expressions().items():
        for line in lines:
            names = metrics_in(line)
            assert names <= set(METRICS), f"{file}: {names - set(METRICS)}"
            for name, matcher in re.findall(r"\b(carnet_\w+)\{(\w+)", line):
                metric = METRICS[next(iter(metrics_in(name)))]
                assert matcher in (*metric.labels, "le"), f"{file}: {name} has no label {matcher}"
            used |= names
    assert set(METRICS) - used == set(), "every documented number is drawn or watched somewhere"


def test_panels_do_not_overlap():
    for path in (DEPLOY / "grafana" / "dashboards").glob("*.json"):
        taken = set()
        for panel in json.loads(path.read_text())["panels"]:
            place = panel["gridPos"]
            cells = {(x, y) for x in range(place["x"], place["x"] + place["w"]) for y in range(place["y"], place["y"] + place["h"])}
            assert not cells & taken and place["x"] + place["w"] <= 24, f"{path.name}: {panel['title']}"
            taken |= cells


PROMTOOL = shutil.which("promtool")


@pytest.mark.skipif(PROMTOOL is None, reason="promtool is not installed (Debian: apt-get install prometheus)")
def test_promtool_accepts_rules_and_configuration(tmp_path):
    shutil.copytree(DEPLOY / "prometheus", tmp_path / "p")
    config = tmp_path / "p" / "prometheus.yml"
    (tmp_path / "key").write_text("x")
    config.write_text(config.read_text().replace("/run/secrets/metrics_key", str(tmp_path / "key")))
    done = subprocess.run([PROMTOOL, "check", "config", str(config)], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    web = tmp_path / "p" / "web.yml"
    for part in ("certificate", "key"):
        (tmp_path / part).write_text("x")
        web.write_text(web.read_text().replace(f"/run/secrets/prometheus_{part}", str(tmp_path / part)))
    done = subprocess.run([PROMTOOL, "check", "web-config", str(web)], capture_output=True, text=True)
    assert "SUCCESS" in done.stdout or "failed to load X509KeyPair" in done.stderr or "find any PEM" in done.stderr, done.stdout + done.stderr


@pytest.mark.skipif(PROMTOOL is None, reason="promtool is not installed (Debian: apt-get install prometheus)")
def test_the_rules_ring_when_they_should(tmp_path):
    shutil.copy(DEPLOY / "prometheus" / "rules.yml", tmp_path)
    day = {"severity": "critical", "account": "a"}
    test = {"rule_files": ["rules.yml"], "evaluation_interval": "1m", "tests": [{
        "interval": "1m",
        "input_series": [{"series": 'carnet_drawdown_ratio{account="a"}', "values": "0.1x5 0.25x10"},
                         {"series": 'carnet_drawdown_ratio{account="b"}', "values": "0.19x20"}],
        "alert_rule_test": [{"eval_time": "2m", "alertname": "DeepDrawdown", "exp_alerts": []},
                            {"eval_time": "10m", "alertname": "DeepDrawdown", "exp_alerts": [
                                {"exp_labels": day, "exp_annotations": {"summary": "a stands 25% below its best."}}]}]}]}
    (tmp_path / "test.yml").write_text(yaml.safe_dump(test))
    done = subprocess.run([PROMTOOL, "test", "rules", "test.yml"], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


def test_kubernetes_manifests_agree_with_each_other():
    listed = documents(DEPLOY / "kubernetes" / "kustomization.yaml")[0]["resources"]
    assert sorted(listed) == sorted(p.name for p in (DEPLOY / "kubernetes").glob("[0-9]*.yaml"))
    found = [d for name in listed for d in documents(DEPLOY / "kubernetes" / name)]
    assert all({"apiVersion", "kind", "metadata"} <= set(d) for d in found)
    claims = {d["metadata"]["name"] for d in found if d["kind"] == "PersistentVolumeClaim"}
    maps = {d["metadata"]["name"] for d in found if d["kind"] == "ConfigMap"}
    pods = {d["metadata"]["name"]: d["spec"] for d in found if d["kind"] in ("Deployment", "StatefulSet")}
    for name, spec in pods.items():
        pod, labels = spec["template"]["spec"], spec["template"]["metadata"]["labels"]
        assert spec["selector"]["matchLabels"].items() <= labels.items()
        assert pod["securityContext"]["runAsNonRoot"] and pod["automountServiceAccountToken"] is False
        volumes = {v["name"] for v in pod["volumes"]} | {t["metadata"]["name"] for t in spec.get("volumeClaimTemplates", [])}
        assert {v["persistentVolumeClaim"]["claimName"] for v in pod["volumes"] if "persistentVolumeClaim" in v} <= claims
        for container in pod["containers"]:
            assert {m["name"] for m in container["volumeMounts"]} <= volumes, name
            rights = container["securityContext"]
            assert rights["allowPrivilegeEscalation"] is False and rights["capabilities"]["drop"] == ["ALL"]
            assert "limits" in container["resources"]
            assert {e["configMapRef"]["name"] for e in container.get("envFrom", [])} <= maps
    for service in (d for d in found if d["kind"] == "Service"):
        wanted = service["spec"]["selector"].items()
        assert any(wanted <= spec["template"]["metadata"]["labels"].items() for spec in pods.values())


@pytest.mark.skipif(shutil.which("kubectl") is None, reason="kubectl is not installed")
def test_kustomize_builds_the_manifests():
    done = subprocess.run(["kubectl", "kustomize", str(DEPLOY / "kubernetes")], capture_output=True, text=True)
    assert done.returncode == 0 and done.stdout.count("kind: ") >= 9, done.stderr


def test_the_cluster_would_take_every_manifest():
    kubernetes_validate = pytest.importorskip("kubernetes_validate", reason="kubernetes-validate is not installed")
    found = [d for file in sorted((DEPLOY / "kubernetes").glob("[0-9]*.yaml")) for d in documents(file)
             if not d["apiVersion"].startswith("cert-manager.io/")]  # kinds of an extension, which the cluster's own list does not hold
    assert len(found) >= 10
    for document in found:
        kubernetes_validate.validate(document, "1.37", strict=True)
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(found[0] | {"metdata": {}}, "1.37", strict=True)


def compose_tool() -> list[str]:
    "Return the command that reads compose files here, if there is one; it needs no engine for that."
    if shutil.which("docker") and subprocess.run(["docker", "compose", "version"], capture_output=True).returncode == 0:
        return ["docker", "compose"]
    return ["docker-compose"] if shutil.which("docker-compose") else []


@pytest.mark.skipif(not compose_tool(), reason="docker compose is not installed")
@pytest.mark.parametrize("files", STACKS, ids=["standard", "full"])
def test_compose_itself_reads_the_files(files, tmp_path):
    shutil.copytree(DEPLOY, tmp_path / "deploy")
    old = compose_tool() == ["docker-compose"]
    for name in files:
        text = (tmp_path / "deploy" / name).read_text()
        (tmp_path / "deploy" / name).write_text(re.sub(r"(?m)^name:.*$", "", text) if old else text)  # the older tool does not know a project's name
    asked = [part for name in files for part in ("-f", name)]
    done = subprocess.run([*compose_tool(), *asked, "config"], cwd=tmp_path / "deploy", capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert set(yaml.safe_load(done.stdout)["services"]) == set(compose(*files)["services"])


@pytest.mark.skipif(shutil.which("amtool") is None, reason="amtool is not installed")
def test_alertmanager_itself_reads_its_configuration_and_sends_alerts_where_they_belong(tmp_path):
    version = subprocess.run(["amtool", "--version"], capture_output=True, text=True)
    number = re.search(r"version (\d+)\.(\d+)", version.stdout + version.stderr)
    text, file = (DEPLOY / "alertmanager" / "alertmanager.yml").read_text(), tmp_path / "alertmanager.yml"
    if (int(number[1]), int(number[2])) < (0, 26):  # before, an address could not be read from a file
        text = re.sub(r"url_file: \S+", "url: http://127.0.0.1:9/", text)
    file.write_text(text)
    done = subprocess.run(["amtool", "check-config", str(file)], capture_output=True, text=True)
    assert done.returncode == 0 and "SUCCESS" in done.stdout, done.stdout + done.stderr
    rules = documents(DEPLOY / "prometheus" / "rules.yml")[0]
    for rule in (r for g in rules["groups"] for r in g["rules"] if "alert" in r):
        labels = [f"{k}={v}" for k, v in rule.get("labels", {}).items()] + [f"alertname={rule['alert']}"]
        routed = subprocess.run(["amtool", "config", "routes", "test", f"--config.file={file}", *labels], capture_output=True, text=True)
        assert routed.returncode == 0 and routed.stdout.split()[-1] in {"team", *re.findall(r"- name: (\S+)", text)}, routed.stdout + routed.stderr


def test_variables_of_the_containers_are_settings():
    from trading.core.settings import Settings

    environment = compose("compose.yaml")["services"]["api"]["environment"] | documents(DEPLOY / "kubernetes" / "10-base.yaml")[2]["data"]
    named = [v.removeprefix("CARNET_").lower().split("__") for v in environment if v.startswith("CARNET_")]
    assert len(named) >= 4
    for section, name in named:
        assert name in Settings.model_fields[section].annotation.model_fields, (section, name)


def test_deployments_of_the_work_pool_are_the_flows_of_the_schedule():
    import ast

    from trading.core.settings_model import ScheduleSettings

    told = documents(DEPLOY / "prefect" / "prefect.yaml")[0]["deployments"]
    lines = {name: getattr(ScheduleSettings(), name) for name in ("daily", "weekly", "maintenance", "watch", "reconcile", "loop")}
    assert {d["name"]: d["schedules"][0]["cron"] for d in told} == lines
    for deployment in told:
        file, function = deployment["entrypoint"].split(":")
        names = {n.name for n in ast.parse((ROOT / file).read_text()).body if isinstance(n, ast.FunctionDef)}
        assert function in names, deployment["entrypoint"]


def test_no_file_holds_a_secret():
    from trading.core.redaction import redact

    for path in [*TEXTS, *(ROOT / ".github").rglob("*.yml")]:
        for number, line in enumerate(path.read_text().splitlines(), 1):
            if re.search(r"secrets?/|_FILE|__FILE|\$\(|_file:|\$\$\(|\$\{\{", line):
                continue  # where a secret lies, not what it is
            line = line.replace("carnet_", "carnet ")  # our measures begin like our keys
            assert redact(line) == line, f"{path.relative_to(ROOT)}:{number}"
    assert [p.name for p in (DEPLOY / "secrets").iterdir() if p.name not in (".gitignore", "README.md")] == []


@pytest.mark.parametrize("script", ["upgrade", "rollback"])
def test_scripts_are_shell_that_parses_and_can_be_run(script):
    path = DEPLOY / script
    assert path.stat().st_mode & 0o111 and subprocess.run(["sh", "-n", str(path)]).returncode == 0


def test_an_upgrade_that_does_not_get_well_goes_back_and_a_rollback_returns(tmp_path):
    place = tmp_path / "deploy"
    shutil.copytree(DEPLOY, place)
    docker = tmp_path / "bin" / "docker"
    docker.parent.mkdir()
    docker.write_text('#!/bin/sh\necho "$CARNET_IMAGE $*" >> "$LOG"\ncase "$*" in *healthz*) [ "$SICK" != 1 ];; esac\n')
    docker.chmod(0o755)
    (docker.parent / "sleep").write_text("#!/bin/sh\n")
    (docker.parent / "sleep").chmod(0o755)
    log = tmp_path / "log"

    def act(script, *words, sick="0"):
        return subprocess.run([str(place / script), *words], capture_output=True, text=True,
                              env={"PATH": f"{docker.parent}:/usr/bin:/bin", "LOG": str(log), "SICK": sick})

    assert act("rollback").returncode == 1
    assert act("upgrade", "carnet:2").returncode == 0 and "carnet backup" in log.read_text().splitlines()[0]
    assert (place / ".image").read_text() == "carnet:2\n"
    failed = act("upgrade", "carnet:3", sick="1")
    assert failed.returncode == 1 and "going back to carnet:2" in failed.stderr and (place / ".image").read_text() == "carnet:2\n"
    assert "carnet:2 compose -f compose.yaml up" in log.read_text().splitlines()[-1]
    act("upgrade", "carnet:4")
    back = act("rollback")
    assert back.returncode == 0 and (place / ".image").read_text() == "carnet:2\n" and log.read_text().splitlines()[-1].startswith("carnet:2 ")


def test_the_image_is_kept_for_whoever_starts_the_services_next(tmp_path):
    place = tmp_path / "deploy"
    shutil.copytree(DEPLOY, place)
    (tmp_path / "bin").mkdir()
    for name, text in (("docker", '#!/bin/sh\ncase "$*" in *healthz*) [ "$SICK" != 1 ];; esac\n'), ("sleep", "#!/bin/sh\n")):
        (tmp_path / "bin" / name).write_text(text)
        (tmp_path / "bin" / name).chmod(0o755)
    act = lambda script, *words, sick="0": subprocess.run([str(place / script), *words], capture_output=True, text=True,  # noqa: E731
                                                          env={"PATH": f"{tmp_path / 'bin'}:/usr/bin:/bin", "SICK": sick})
    (place / ".env").write_text("CARNET_PROFILE=crypto\n")
    kept = lambda: sorted((place / ".env").read_text().split())  # noqa: E731  what 'docker compose up -d' reads
    for script, words, sick, image in (("upgrade", ("carnet:2",), "0", "carnet:2"), ("upgrade", ("carnet:3",), "1", "carnet:2"),
                                       ("upgrade", ("carnet:4",), "0", "carnet:4"), ("rollback", (), "0", "carnet:2")):
        act(script, *words, sick=sick)
        assert kept() == [f"CARNET_IMAGE={image}", "CARNET_PROFILE=crypto"], (script, words)


def test_a_container_starts_with_its_secrets_or_not_at_all(tmp_path):
    folder = tmp_path / "secrets"
    folder.mkdir()
    start = lambda: subprocess.run([str(DEPLOY / "with-secrets"), "sh", "-c", 'echo "$CARNET_VAULT_KEY_FILE $PGPASSWORD $CARNET_LEDGER"'],  # noqa: E731
                                   capture_output=True, text=True, env={"PATH": "/usr/bin:/bin", "MOUNTED_AT": str(folder)})
    for name in ("vault_key", "backup_passphrase", "postgres_password"):
        failed = start()
        assert failed.returncode == 78 and f"{name} is missing" in failed.stderr and failed.stdout == ""
        (folder / name).write_text("")
        assert start().returncode == 78, "an empty one is none"
        (folder / name).write_text(f"the {name}\n")
    told = start()
    assert told.stdout == f"{folder}/vault_key the postgres_password postgresql://carnet@postgres:5432/carnet\n"


def test_secrets_are_made_for_the_user_that_reads_them(tmp_path):
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "chown").write_text('#!/bin/sh\necho "$1 $(basename $2)" >> "$LOG"\n')
    (tmp_path / "bin" / "chown").chmod(0o755)
    place, log = tmp_path / "secrets", tmp_path / "log"
    place.mkdir()
    (place / "vault_key").write_text("kept as it is")

    def make(script: str = "make-secrets") -> dict[str, str]:
        done = subprocess.run([str(DEPLOY / script), str(place)], capture_output=True, text=True,
                              env={"PATH": f"{tmp_path / 'bin'}:/usr/bin:/bin", "LOG": str(log)})
        assert done.returncode == 0, done.stderr
        return {f.name: f.read_text() for f in place.iterdir()}

    first = make()
    assert make() == first and first["vault_key"] == "kept as it is" and len(set(first.values())) == len(first)
    public = {n for n in first if n.endswith("_certificate")} | {"inside_authority"}
    assert {f.stat().st_mode & 0o777 for f in place.iterdir() if f.name not in public} == {0o400}
    assert {f.stat().st_mode & 0o777 for f in place.iterdir() if f.name in public} == {0o444} and len(public) == 9
    stack = compose("compose.yaml", "compose.full.yaml", "compose.tls.yaml")
    assert {Path(s["file"]).name for s in stack["secrets"].values()} - set(first) == {"metrics_key", "alert_webhook"}, "those are made elsewhere"
    assert not [n for n, s in stack["services"].items() if "inside_authority_key" in s.get("secrets", [])], "what signs is mounted nowhere"
    authority = x509.load_pem_x509_certificate(first["inside_authority"].encode())
    for name in public - {"inside_authority"}:
        shown, key = x509.load_pem_x509_certificate(first[name].encode()), first[name.replace("_certificate", "_key")]
        shown.verify_directly_issued_by(authority)
        assert load_pem_private_key(key.encode(), None).public_key() == shown.public_key()
        names = shown.extensions.get_extension_for_class(x509.SubjectAlternativeName).value.get_values_for_type(x509.DNSName)
        assert {name.removesuffix("_certificate"), "localhost"} <= set(names)
        assert shown.not_valid_after_utc - datetime.now(UTC) > timedelta(days=700)
    (place / "loki_certificate").unlink()
    second = make("make-certificates")
    assert {n for n in first if first[n] != second[n]} == {"loki_certificate", "loki_key"}, "what is missing is made, and nothing else"
    (place / "inside_authority").unlink()
    third = make("make-certificates")
    shown_with = {n.replace("_certificate", "") + "_key" for n in public}
    assert {n for n in first if second[n] != third[n]} == public | shown_with, "another authority signs all of them"
    uids = {"postgres": "999:999", "prometheus": "65534:65534", "alertmanager": "65534:65534", "grafana": "472:472", "loki": "10001:10001",
            "dask": "10001:10001", "prefect": "0:0"}
    assert {f"{uid} {name}_key" for name, uid in uids.items()} <= set(log.read_text().splitlines())
    assert {"10001:10001 vault_key", "10001:10001 postgres_password", "472:472 grafana_password"} <= set(log.read_text().splitlines())
    user = re.findall(r"^USER (\d+):", (DEPLOY / "Dockerfile").read_text(), re.MULTILINE)[-1]
    assert f"keep vault_key {user}:{user}" in (DEPLOY / "make-secrets").read_text()


def test_whatever_asks_another_inside_asks_over_tls_and_believes_one_authority():
    stack, authority = compose("compose.yaml", "compose.full.yaml", "compose.tls.yaml")["services"], "/run/secrets/inside_authority"
    for path in TEXTS:  # no address of a service in the clear
        plain = re.findall(rf"\b(?:http|tcp)://({'|'.join(stack)})\b", path.read_text())
        assert not plain, (path.name, plain)
    asks = {n for n, s in stack.items() if "postgres_password" in s.get("secrets", [])} - {"postgres"}
    assert asks == {"api", "worker", "prefect"}
    for name in asks:
        told = stack[name]["environment"]
        assert (told["PGSSLMODE"], told["PGSSLROOTCERT"]) == ("verify-full", authority) and "inside_authority" in stack[name]["secrets"]
    assert "ssl=on" in stack["postgres"]["command"] and "hba_file=/etc/postgresql/pg_hba.conf" in stack["postgres"]["command"]
    rules = [line.split()[0] for line in (DEPLOY / "postgres" / "pg_hba.conf").read_text().splitlines() if line and line[0] != "#"]
    assert rules == ["local", "hostssl"]
    told = stack["worker"]["environment"]
    assert told["PREFECT_API_URL"].startswith("https://") and told["PREFECT_API_SSL_CERT_FILE"] == authority
    assert stack["prefect"]["networks"] == ["prefect"] and "ports" not in stack["prefect"], "it is reached through its door only"
    assert {name for name, service in stack.items() if "prefect" in service.get("networks", ())} == {"prefect", "prefect-door", "postgres"}
    for name, service in stack.items():
        if service.get("image", "").startswith("caddy:"):  # its program carries this capability and does not start without
            assert "NET_BIND_SERVICE" in service["cap_add"], name
    assert "tls /run/secrets/prefect_certificate /run/secrets/prefect_key" in (DEPLOY / "prefect" / "Caddyfile").read_text()
    for name in ("prometheus", "alertmanager"):
        assert f"--web.config.file=/etc/{name}/web.yml" in stack[name]["command"]
        assert documents(DEPLOY / name / "web.yml")[0]["tls_server_config"]["key_file"] == f"/run/secrets/{name}_key"
    config = documents(DEPLOY / "prometheus" / "prometheus.yml")[0]
    for asked in (config["alerting"]["alertmanagers"][0], config["scrape_configs"][1]):
        assert asked["scheme"] == "https" and asked["tls_config"] == {"ca_file": authority}
    for source in documents(DEPLOY / "grafana" / "provisioning" / "datasources" / "carnet.yaml")[0]["datasources"]:
        assert source["url"].startswith("https://") and source["jsonData"]["tlsAuthWithCACert"] and authority in source["secureJsonData"]["tlsCACert"]
    assert documents(DEPLOY / "loki" / "loki.yaml")[0]["server"]["http_tls_config"]["key_file"] == "/run/secrets/loki_key"
    assert f'ca_file = "{authority}"' in (DEPLOY / "alloy" / "config.alloy").read_text()
    assert stack["grafana"]["environment"]["GF_SERVER_PROTOCOL"] == "https"
    for name in ("dask-scheduler", "dask-worker"):
        assert stack[name]["environment"]["DASK_DISTRIBUTED__COMM__REQUIRE_ENCRYPTION"] == "true"
        assert any("tls" in word for word in stack[name]["command"])
    for name, service in stack.items():  # what a service names is mounted, and nobody has the key of another
        text = json.dumps(service) + "".join(p.read_text() for p in (DEPLOY / name).glob("*") if p.is_file())
        for secret in set(re.findall(r"/run/secrets/(\w+)", text)) - ({"prefect_certificate", "prefect_key"} if name == "prefect" else set()):
            assert secret in service["secrets"], (name, secret)
        keys = {s.removesuffix("_key") for s in service.get("secrets", []) if s.endswith("_key")} - {"vault", "metrics"}
        assert keys <= {name, name.split("-")[0]}, (name, keys)


def test_postgresql_takes_nobody_without_tls_and_is_believed_by_its_authority_only(tmp_path, monkeypatch):
    import shlex
    import socket
    import tempfile

    from sqlalchemy import create_engine, text
    from sqlalchemy.exc import OperationalError
    from test_data_postgres import programs

    pytest.importorskip("psycopg", reason="needs psycopg")
    here = programs()
    if here is None:
        pytest.skip("needs PostgreSQL's programs, for example Debian's package postgresql")
    who = {"user": "postgres", "group": "postgres", "extra_groups": []} if os.name == "posix" and os.geteuid() == 0 else {}
    folder = Path(tempfile.mkdtemp(prefix="pg"))
    for name in ("own", "other"):
        (folder / name).mkdir()
        (tmp_path / "chown").write_text("#!/bin/sh\n")
        (tmp_path / "chown").chmod(0o755)
        environ = {"PATH": f"{tmp_path}:/usr/bin:/bin"}
        done = subprocess.run([str(DEPLOY / "make-certificates"), str(folder / name)], env=environ, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
    shutil.copy(DEPLOY / "postgres" / "pg_hba.conf", folder)
    (folder / "password").write_text("a password of the test")
    if who:
        for one in (folder, folder / "own", folder / "password", folder / "own" / "postgres_key"):
            shutil.chown(one, "postgres", "postgres")
    options = {"cwd": folder, "check": True, "stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL, **who}
    subprocess.run([here / "initdb", "-D", folder / "data", "-U", "carnet", "--pwfile", folder / "password", "-E", "UTF8", "--no-sync"], **options)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = compose("compose.yaml")["services"]["postgres"]["command"][1:]  # the options of the container, on files that lie here
    command = [part.replace("/run/secrets", str(folder / "own")).replace("/etc/postgresql", str(folder)) for part in command]
    settings = shlex.join([*command, "-c", "listen_addresses=127.0.0.1", "-p", str(port), "-k", str(folder), "-c", "fsync=off"])
    subprocess.run([here / "pg_ctl", "-D", folder / "data", "-w", "-o", settings, "-l", folder / "log", "start"], **options)
    try:
        monkeypatch.setenv("PGPASSWORD", "a password of the test")

        def ask(mode: str, authority: Path, host: str = "localhost") -> list:
            monkeypatch.setenv("PGSSLMODE", mode)
            monkeypatch.setenv("PGSSLROOTCERT", str(authority))
            engine = create_engine(f"postgresql+psycopg://carnet@{host}:{port}/postgres")
            try:
                with engine.connect() as db:
                    return db.execute(text("select version from pg_stat_ssl where pid = pg_backend_pid()")).scalars().all()
            finally:
                engine.dispose()

        assert ask("verify-full", folder / "own" / "inside_authority") == ["TLSv1.3"]
        for mode, authority, host, said in (("disable", "own", "localhost", "no encryption"),
                                            ("verify-full", "other", "localhost", "certificate verify failed")):
            with pytest.raises(OperationalError, match=said):
                ask(mode, folder / authority / "inside_authority", host)
        from trading.accounting.ledger_postgres import SharedLedger
        from trading.data.postgres_store import PostgresStore

        ask("verify-full", folder / "own" / "inside_authority")  # the variables as the containers have them, and the two that use them
        ledger = SharedLedger(f"postgresql://carnet@localhost:{port}/postgres")
        assert ledger.accounts() == []
        ledger.close()
        assert PostgresStore(f"postgresql://carnet@localhost:{port}/postgres").versions().empty
    finally:
        subprocess.run([here / "pg_ctl", "-D", folder / "data", "-m", "immediate", "stop"], **options)
        shutil.rmtree(folder, ignore_errors=True)


def test_what_is_started_is_used_watched_and_closed():
    stack = compose("compose.yaml")["services"]
    for name in ("api", "worker"):
        assert stack[name]["entrypoint"] == ["with-secrets"] and "postgres" in stack[name]["depends_on"]
        assert stack[name]["environment"]["CARNET_RUN__STORE"].startswith("postgresql://") and "postgres_password" in stack[name]["secrets"]
    assert "alive" in stack["worker"]["healthcheck"]["test"]
    door = documents(DEPLOY / "compose.tls.yaml")[0]["services"]
    assert door["api"]["environment"]["CARNET_SERVICE__HTTPS"] == "true"
    assert "reverse_proxy https://api:8300" in (DEPLOY / "caddy" / "Caddyfile").read_text()
    ingress = documents(DEPLOY / "kubernetes" / "40-ingress.yaml")[0]
    assert ingress["spec"]["tls"][0]["hosts"] == [rule["host"] for rule in ingress["spec"]["rules"]]
    pod = documents(DEPLOY / "kubernetes" / "20-carnet.yaml")[0]["spec"]["template"]
    assert "annotations" not in pod["metadata"] and all(c["livenessProbe"] for c in pod["spec"]["containers"])


def test_the_service_is_asked_over_tls_and_believed_only_by_its_own_authority():
    stack, door = compose("compose.yaml", "compose.full.yaml"), documents(DEPLOY / "compose.tls.yaml")[0]["services"]
    command, volumes = stack["services"]["api"]["command"], stack["services"]["api"]["volumes"]
    assert command[-2:] == ["--tls-folder", f"{INSIDE}/tls"] and f"tls:{INSIDE}/tls" in volumes
    assert f"--mode=0755 {INSIDE}/tls" in (DEPLOY / "Dockerfile").read_text(), "others reach authority.pem in it"
    assert {f"data:{INSIDE}/data", f"reports:{INSIDE}/reports", f"backups:{INSIDE}/backups", f"own:{INSIDE}/own"} <= {*volumes}, "those of the worker"
    for client in (stack["services"]["prometheus"], door["caddy"]):
        assert "tls:/tls:ro" in client["volumes"] and client["depends_on"]["api"] == {"condition": "service_healthy"}
    scrape = documents(DEPLOY / "prometheus" / "prometheus.yml")[0]["scrape_configs"][0]
    assert scrape["scheme"] == "https" and scrape["tls_config"] == {"ca_file": "/tls/authority.pem", "server_name": "api"}
    caddy = (DEPLOY / "caddy" / "Caddyfile").read_text()
    assert "tls_trust_pool file /tls/authority.pem" in caddy and "tls_server_name api" in caddy
    assert "api" in stack["services"]["api"]["environment"]["CARNET_SERVICE__HOSTS"].split(", "), "the name is in the certificate"
    for path in TEXTS:  # nobody skips the check, and nobody asks in the clear
        text = path.read_text()
        assert not re.search(r"insecure|CERT_NONE|http://(127\.0\.0\.1|api|carnet):8300", text), path.name
    assert [p.name for p in TEXTS if f"cafile='{INSIDE}/tls/authority.pem'" in p.read_text()] == ["Dockerfile", "upgrade"]


def test_the_cluster_asks_the_service_over_tls_and_believes_one_authority():
    found = {(d["kind"], d["metadata"]["name"]): d for p in (DEPLOY / "kubernetes").glob("[0-9]*.yaml") for d in documents(p)}
    pod = found["Deployment", "carnet"]["spec"]["template"]["spec"]
    api, worker = pod["containers"]
    place = {m["name"]: m["mountPath"] for m in api["volumeMounts"]}["tls"]
    assert api["args"][-4:] == ["--tls-certificate", f"{place}/tls.crt", "--tls-key", f"{place}/tls.key"]
    assert [m for m in api["volumeMounts"] if m["name"] != "tls"] == worker["volumeMounts"], "the worker needs no key of the service"
    (port,), shown = api["ports"], found["Certificate", "carnet"]["spec"]
    assert all(api[p]["httpGet"]["scheme"] == "HTTPS" and api[p]["httpGet"]["port"] == port["name"] for p in ("readinessProbe", "livenessProbe"))
    volume = next(v["secret"] for v in pod["volumes"] if v["name"] == "tls")
    assert volume["secretName"] == shown["secretName"] and volume["defaultMode"] & 0o007 == 0, "closed to others, or the service refuses it"
    ingress = found["Ingress", "carnet"]
    notes = {k.rpartition("/")[2]: v for k, v in ingress["metadata"]["annotations"].items()}
    assert (notes["backend-protocol"], notes["proxy-ssl-verify"], notes["proxy-ssl-secret"]) == ("HTTPS", "on", f"carnet/{shown['secretName']}")
    assert notes["proxy-ssl-name"] in shown["dnsNames"]
    told, way = found["Service", "carnet"]["spec"]["ports"][0], ingress["spec"]["rules"][0]["http"]["paths"][0]
    assert told["targetPort"] == port["name"] and way["backend"]["service"]["port"]["name"] == told["name"]
    signs = found["Issuer", shown["issuerRef"]["name"]]["spec"]["ca"]["secretName"]
    authority = next(d["spec"] for (kind, _), d in found.items() if kind == "Certificate" and d["spec"]["secretName"] == signs)
    assert authority["isCA"] and found["Issuer", authority["issuerRef"]["name"]]["spec"] == {"selfSigned": {}}
    told, shown = found["ConfigMap", "carnet"]["data"], found["Certificate", "postgres"]["spec"]
    assert (told["PGSSLMODE"], told["PGSSLROOTCERT"]) == ("verify-full", "/run/secrets/authority/ca.crt") and "postgres" in shown["dnsNames"]
    for container in (api, worker):
        assert {"name": "authority", "mountPath": "/run/secrets/authority", "readOnly": True} in container["volumeMounts"]
    believed = next(v["secret"] for v in pod["volumes"] if v["name"] == "authority")
    assert believed["secretName"] == shown["secretName"] and [i["key"] for i in believed["items"]] == ["ca.crt"], "not the key of the database"
    assert shown["issuerRef"] == found["Certificate", "carnet"]["spec"]["issuerRef"]
    database = found["StatefulSet", "postgres"]["spec"]["template"]["spec"]["containers"][0]
    assert "ssl=on" in database["args"] and "hba_file=/etc/postgresql/pg_hba.conf" in database["args"]
    rules = lambda text: [line.split() for line in text.splitlines() if line and line[0] != "#"]  # noqa: E731
    assert rules(found["ConfigMap", "postgres-access"]["data"]["pg_hba.conf"]) == rules((DEPLOY / "postgres" / "pg_hba.conf").read_text())


def test_a_service_refuses_to_start_without_its_vault_key(tmp_path, monkeypatch):
    import time
    from datetime import UTC, datetime

    from trading.core.errors import MissingData
    from trading.security.vault import Vault, VaultError, new_key, vault_path
    from trading.services.launching import heartbeat_file, require_alive
    from trading.services.security_admin import require_vault

    start = lambda **environ: require_vault(tmp_path, environ=environ, ring=False)  # noqa: E731
    start()
    with pytest.raises(VaultError, match="can be reached from outside"):
        require_vault(tmp_path, True, {}, False)
    for environ, words in (({"CARNET_VAULT_KEY": ""}, "set and empty"), ({"CARNET_VAULT_KEY_FILE": str(tmp_path / "none")}, "cannot be read")):
        with pytest.raises(VaultError, match=words):
            start(**environ)
    Vault(vault_path(tmp_path), new_key()).set("X", "y" * 20)
    with pytest.raises(VaultError, match="no key to it"):
        start()
    from trading.security.vault import key_text

    with pytest.raises(VaultError, match="wrong"):
        start(CARNET_VAULT_KEY=key_text(new_key()))
    now = datetime.fromtimestamp(time.time(), UTC)
    with pytest.raises(MissingData, match="no sign of life yet"):
        require_alive(tmp_path, 60, now)
    heartbeat_file(tmp_path).touch()
    assert "lived" in require_alive(tmp_path, 60, now)
    with pytest.raises(MissingData, match="no sign of life for"):
        require_alive(tmp_path, 60, datetime.fromtimestamp(time.time() + 90, UTC))
