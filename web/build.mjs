// Owns web/dist: what the server binary embeds. Copies our pages, modules and styles, and fetches the two
// third-party scripts from node_modules, so that none of them is ever committed.
import { copyFile, mkdir, readFile, readdir, rm, stat, writeFile } from "node:fs/promises";
import { dirname, join } from "node:path";
import { fileURLToPath } from "node:url";
import { brotliCompressSync, constants, gzipSync } from "node:zlib";

const here = dirname(fileURLToPath(import.meta.url));
const dist = join(here, "dist");
const assets = join(dist, "assets");
const modules = join(here, "node_modules");

const pages = ["index.html", "docs.html"];

const thirdParty = [
  { from: "socket.io-client/dist/socket.io.esm.min.js", to: "socket.io.esm.min.js" },
  { from: "swagger-ui-dist/swagger-ui-bundle.js", to: "swagger-ui-bundle.js" },
  { from: "swagger-ui-dist/swagger-ui.css", to: "swagger-ui.css" },
];

// Texts that the licences ask us to hand on with the scripts.
const notices = [
  { name: "socket.io-client", files: ["LICENSE"] },
  { name: "swagger-ui-dist", files: ["LICENSE", "NOTICE", "swagger-ui-bundle.js.LICENSE.txt"] },
];

async function readIfThere(path) {
  try {
    return await readFile(path, "utf8");
  } catch (error) {
    if (error.code === "ENOENT") return null;
    throw error;
  }
}

async function copyThirdParty() {
  for (const { from, to } of thirdParty) {
    const text = await readIfThere(join(modules, from));
    if (text === null) {
      throw new Error(`${from} is not in node_modules: run "npm ci" in web/ first`);
    }
    // A source-map comment would make every open developer tool ask the server for a file it does not have.
    const clean = text.replace(/^\s*(\/\/|\/\*)# sourceMappingURL=.*$/gm, "");
    await writeFile(join(assets, to), to.endsWith(".css") ? await unfoldImages(clean) : clean);
  }
}

// Images folded into a style sheet as data: addresses would need a hole in a strict content security policy.
// They become files of their own.
async function unfoldImages(css) {
  const extensions = { "image/svg+xml": "svg", "image/png": "png", "image/jpeg": "jpg" };
  const files = new Map();
  const unfolded = css.replace(/url\((?:"(data:(?:[^"\\]|\\.)*)"|(data:[^)"']*))\)/g, (whole, quoted, bare) => {
    const address = (quoted ?? bare).replace(/\\(.)/g, "$1");
    const comma = address.indexOf(",");
    const [type, ...flags] = address.slice("data:".length, comma).split(";");
    const extension = extensions[type];
    if (!extension) throw new Error(`a style sheet folds in a ${type}, which build.mjs does not know`);
    const body = address.slice(comma + 1);
    const bytes = flags.includes("base64") ? Buffer.from(body, "base64") : Buffer.from(decodeURIComponent(body));
    const key = bytes.toString("base64");
    if (!files.has(key)) files.set(key, { name: `swagger-ui-${files.size + 1}.${extension}`, bytes });
    return `url("/assets/${files.get(key).name}")`;
  });
  if (unfolded.includes("url(data:") || unfolded.includes('url("data:')) throw new Error("a folded image was missed");
  for (const { name, bytes } of files.values()) await writeFile(join(assets, name), bytes);
  return unfolded;
}

async function writeNotices() {
  const parts = [];
  for (const { name, files } of notices) {
    const { version } = JSON.parse(await readFile(join(modules, name, "package.json"), "utf8"));
    parts.push(`==== ${name} ${version} ====`);
    const texts = await Promise.all(files.map((file) => readIfThere(join(modules, name, file))));
    const found = texts.filter((text) => text !== null);
    if (found.length === 0) throw new Error(`${name} ships no licence text where one is expected`);
    parts.push(...found.map((text) => text.trim()));
  }
  await writeFile(join(assets, "third-party-licenses.txt"), parts.join("\n\n") + "\n");
}

// Compressed once, here: the server only hands the bytes on. What does not get smaller is left alone.
async function compress() {
  for (const folder of [dist, assets]) {
    for (const name of await readdir(folder)) {
      const path = join(folder, name);
      if (!(await stat(path)).isFile() || !/\.(html|js|css|svg|txt|json)$/.test(name)) continue;
      const bytes = await readFile(path);
      const brotli = brotliCompressSync(bytes, {
        params: { [constants.BROTLI_PARAM_QUALITY]: 11, [constants.BROTLI_PARAM_SIZE_HINT]: bytes.length },
      });
      const zipped = gzipSync(bytes, { level: 9 });
      if (brotli.length < bytes.length) await writeFile(`${path}.br`, brotli);
      if (zipped.length < bytes.length) await writeFile(`${path}.gz`, zipped);
    }
  }
}

async function report() {
  const size = async (path) => ((await stat(path).catch(() => null)) ?? { size: 0 }).size;
  let raw = 0;
  let packed = 0;
  for (const folder of [dist, assets]) {
    for (const name of (await readdir(folder)).sort()) {
      const path = join(folder, name);
      if (!(await stat(path)).isFile() || /\.(br|gz)$/.test(name)) continue;
      const [bytes, brotli] = [await size(path), await size(`${path}.br`)];
      raw += bytes;
      packed += brotli || bytes;
      console.log(`${String(bytes).padStart(9)} ${String(brotli || bytes).padStart(8)} br  ${path.slice(here.length + 1)}`);
    }
  }
  console.log(`${String(raw).padStart(9)} ${String(packed).padStart(8)} br  in all`);
}

await rm(dist, { recursive: true, force: true });
await mkdir(assets, { recursive: true });
for (const page of pages) await copyFile(join(here, page), join(dist, page));
for (const name of await readdir(join(here, "src"))) await copyFile(join(here, "src", name), join(assets, name));
await copyThirdParty();
await writeNotices();
await compress();
await report();
