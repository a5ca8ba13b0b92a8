"""Renders a chart with the values on standard input, and prints its objects as JSON.

Helm itself renders, as a library. Every object of Kubernetes' own kinds is held against the published
schemas of the oldest release that the chart takes and of the newest that is known; the defaults and
the schema of the values are held against each other. What is wrong goes to standard error.
"""

import json
import sys
from importlib.resources import files

import helm_python as helm
import kubernetes_validate
import yaml

# Kinds whose schemas are not Kubernetes' own.
OTHERS = {"ServiceMonitor", "PrometheusRule"}


def undescribed(values, schema, at=""):
    """Values that the schema does not describe, and those that it describes and are not there."""
    if not schema.get("description"):
        yield f"{at or '/'}: not described"
    properties = schema.get("properties")
    if properties is None:
        return
    if schema.get("additionalProperties") is not False:
        yield f"{at or '/'}: takes what nobody knows"
    for name in sorted(set(values) ^ set(properties) - {"global"}):
        yield f"{at}/{name}: is not in both values.yaml and values.schema.json"
    for name in set(values) & set(properties):
        yield from undescribed(values[name], properties[name], f"{at}/{name}")


def releases(chart):
    """The oldest release of Kubernetes that the chart takes, and the newest that there is a schema of."""
    folder = files(kubernetes_validate) / "kubernetes-json-schema"
    names = {f.name.removesuffix("-local")[1:] for f in folder.iterdir() if f.name.endswith("-local")}
    known = sorted(tuple(map(int, name.split("."))) for name in names)
    oldest = chart.metadata["kubeVersion"].removeprefix(">=").removesuffix("-0")
    return [oldest, ".".join(map(str, known[-1]))]


def main():
    values = json.load(sys.stdin)
    chart = helm.Chart.load(sys.argv[1])
    complaints = list(undescribed(chart.values, chart.schema))
    chart.validate_schema(values)
    rendered = chart.render(values, name="solewriter", namespace="nats")
    linted = helm.lint(sys.argv[1], values, strict=True)
    complaints += [str(m) for m in linted.get("messages", []) if m.get("severity") in ("WARNING", "ERROR")]
    objects = []
    for template, text in rendered.items():
        if template.endswith("NOTES.txt"):
            objects.append({"kind": "Notes", "metadata": {"name": "notes"}, "text": text})
            continue
        for found in yaml.safe_load_all(text):
            if found is None:
                continue
            objects.append(found)
            if found["kind"] in OTHERS:
                continue
            for release in releases(chart):
                try:
                    kubernetes_validate.validate(found, release, strict=True)
                except kubernetes_validate.ValidationError as error:
                    complaints.append(f"{template}, Kubernetes {release}: {error}")
    if complaints:
        sys.exit("\n".join(complaints))
    json.dump(objects, sys.stdout)


try:
    main()
except helm.HelmError as error:
    sys.exit(str(error))
