// Bundles the pages into ../static: three HTML files and assets/ whose names carry a hash of their content, so that
// they can be cached for ever. Everything is made in memory first; a build that fails leaves the old output alone.
import { createHash } from "node:crypto";
import { mkdir, readFile, rm, writeFile } from "node:fs/promises";
import { basename, dirname, extname, join } from "node:path";
import { fileURLToPath } from "node:url";
import { promisify } from "node:util";
import { brotliCompress, constants, gzip } from "node:zlib";
import { build } from "esbuild";

const here = dirname(fileURLToPath(import.meta.url));
const out = join(here, "..", "static");
const pages = ["index.html", "login.html", "docs.html"];
const bundled = ["uplot", "swagger-ui-dist"];

const common = {
  absWorkingDir: here,
  bundle: true,
  minify: true,
  write: false,
  metafile: true,
  charset: "utf8",
  target: "es2022",
  legalComments: "none", // the licences travel in one file of their own, below
  loader: { ".svg": "copy" },
  entryNames: "[name]-[hash]",
  outdir: join(out, "assets"),
  logLevel: "warning",
};

/** Asset bytes by file name, and the hashed name of each source name ("main.js" -> "main-ABC.js"). */
const assets = new Map();
const hashed = new Map();

for (const options of [
  { format: "iife", entryPoints: ["src/boot.ts"] },
  {
    format: "esm",
    entryPoints: ["src/main.ts", "src/login.ts", "src/docs.ts", "src/style.css", "src/docs.css", "src/icon.svg"],
  },
]) {
  const result = await build({ ...common, ...options });
  for (const file of result.outputFiles) assets.set(basename(file.path), file.contents);
  for (const [path, { entryPoint, inputs }] of Object.entries(result.metafile.outputs)) {
    const source = entryPoint ?? Object.keys(inputs)[0];
    hashed.set(basename(source, extname(source)) + extname(path), basename(path));
  }
}

const licences = Buffer.from(
  (
    await Promise.all(
      bundled.map(async (name) => {
        const folder = join(here, "node_modules", name);
        const { version, license } = JSON.parse(await readFile(join(folder, "package.json"), "utf8"));
        const texts = await Promise.all(
          ["LICENSE", "NOTICE", "swagger-ui-bundle.js.LICENSE.txt"].map((f) => readFile(join(folder, f), "utf8").catch(() => "")),
        );
        return `${name} ${version} (${license})\n\n${texts.filter(Boolean).join("\n\n")}`;
      }),
    )
  ).join(`\n\n${"=".repeat(80)}\n\n`),
);
const licencesName = `licences-${createHash("sha256").update(licences).digest("hex").slice(0, 8).toUpperCase()}.txt`;
assets.set(licencesName, licences);
hashed.set("licences.txt", licencesName);

const html = new Map();
for (const page of pages) {
  const text = await readFile(join(here, page), "utf8");
  html.set(
    page,
    text.replace(/\/assets\/([\w.-]+)/g, (_, name) => {
      const target = hashed.get(name);
      if (!target) throw new Error(`${page} refers to /assets/${name}, which no source makes`);
      return `/assets/${target}`;
    }),
  );
}

await rm(out, { recursive: true, force: true });
await mkdir(join(out, "assets"), { recursive: true });
for (const [page, text] of html) await writeFile(join(out, page), text);

const kB = (bytes) => `${(bytes / 1000).toFixed(1)} kB`.padStart(10);
for (const [name, bytes] of [...assets].sort()) {
  const path = join(out, "assets", name);
  const zipped = await promisify(gzip)(bytes, { level: 9 });
  const brotli = await promisify(brotliCompress)(bytes, { params: { [constants.BROTLI_PARAM_SIZE_HINT]: bytes.length } });
  await writeFile(path, bytes);
  if (bytes.length > 1000) {
    // Siblings that a server may send instead, to a client that accepts them.
    await writeFile(`${path}.gz`, zipped);
    await writeFile(`${path}.br`, brotli);
  }
  console.log(`${name.padEnd(28)}${kB(bytes.length)}${kB(zipped.length)} gzip${kB(brotli.length)} br`);
}
