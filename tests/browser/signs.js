// Signs that stand for a state and are not in the file of signs.
async () => {
  const texts = new Map();
  const read = async (file) => (await fetch(file)).text();
  const missing = [];
  for (const use of new Set([...document.querySelectorAll('use')].map((one) => one.getAttribute('href')))) {
    const [file, id] = use.split('#');
    if (!texts.has(file)) texts.set(file, await read(file));
    if (!texts.get(file).includes(`id="${id}"`)) missing.push(`no sign for ${id}`);
  }
  return missing;
}
