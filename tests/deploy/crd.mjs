// Checks custom resources against the types of their makers: node crd.mjs reads a JSON list of objects from standard
// input, and writes a JSON list of { index, fault }.
//
// Two ways, because each sees what the other does not: the package's own validator knows required fields, patterns and
// choices, and lets fields pass that do not exist; TypeScript refuses fields that the type does not have. An object whose
// kind has no schema here is a fault too. Exit code 0 whatever is found; anything else means that the check broke.

import { readFileSync } from "node:fs";
import { fileURLToPath } from "node:url";
import ts from "typescript";

const PACKAGES = {
  "monitoring.coreos.com": "@kubernetes-models/prometheus-operator",
  "gateway.networking.k8s.io": "@kubernetes-models/gateway-api",
};

/** The module of an object's kind, or nothing. */
function moduleOf({ apiVersion, kind }) {
  const [group, version] = String(apiVersion).split("/");
  return PACKAGES[group] && version && /^\w+$/.test(kind) ? `${PACKAGES[group]}/${group}/${version}/${kind}` : undefined;
}

async function validate(object, specifier) {
  const model = (await import(specifier))[object.kind];
  try {
    // Kubernetes-models validates what it was given; an instance drops nothing.
    new model(object).validate();
    return [];
  } catch (error) {
    if (!Array.isArray(error.errors)) return [error.message];
    return error.errors.map(({ instancePath, message, keyword, params }) =>
      `${instancePath || "/"} ${message ?? `breaks "${keyword}" (${JSON.stringify(params)})`}`);
  }
}

/** What TypeScript says of each source; all of them in one program, because reading the types is what takes time. */
function excess(sources) {
  const folder = fileURLToPath(new URL(".", import.meta.url));
  const files = new Map(sources.map(({ index, text }) => [`${folder}object-${index}.ts`, { index, text }]));
  const options = {
    strict: true, noEmit: true, skipLibCheck: true, types: [], target: ts.ScriptTarget.ES2022,
    module: ts.ModuleKind.NodeNext, moduleResolution: ts.ModuleResolutionKind.NodeNext,
  };
  const host = ts.createCompilerHost(options);
  const { fileExists, readFile, getSourceFile } = host;
  host.fileExists = (name) => files.has(name) || fileExists(name);
  host.readFile = (name) => files.get(name)?.text ?? readFile(name);
  host.getSourceFile = (name, target, ...rest) =>
    files.has(name) ? ts.createSourceFile(name, files.get(name).text, target) : getSourceFile(name, target, ...rest);
  const program = ts.createProgram([...files.keys()], options, host);
  return [...files.keys()].flatMap((name) =>
    ts.getPreEmitDiagnostics(program, program.getSourceFile(name)).map(({ messageText }) => ({
      index: files.get(name).index,
      fault: lastLine(ts.flattenDiagnosticMessageText(messageText, "\n")),
    })));
}

/** The innermost reason; the outer ones repeat the whole object. */
const lastLine = (text) => text.split("\n").at(-1).trim().replace(/\bI(Com|Io)[A-Z]\w*?V\d\w*?([A-Z]\w+)/g, "$2");

const objects = JSON.parse(readFileSync(0, "utf8"));
const faults = [];
const sources = [];
for (const [index, object] of objects.entries()) {
  const specifier = moduleOf(object);
  try {
    if (!specifier) throw new Error("no package");
    for (const fault of await validate(object, specifier)) faults.push({ index, fault });
    const text = `import type { I${object.kind} } from "${specifier}";\n`
      + `export const object: I${object.kind} = ${JSON.stringify(object)};\n`;
    sources.push({ index, text });
  } catch (error) {
    if (error.message !== "no package" && !/ERR_(MODULE_NOT_FOUND|PACKAGE_PATH)/.test(error.code)) throw error;
    faults.push({ index, fault: null });
  }
}
if (sources.length) faults.push(...excess(sources));
process.stdout.write(JSON.stringify(faults));
