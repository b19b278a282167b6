// Signs that stand for a state and are not in the file of signs.
async () => {
  const uses = [...new Set([...document.querySelectorAll('use')].map((one) => one.getAttribute('href')))];
  const missing = [];
  for (const use of uses) {
    const [file, id] = use.split('#');
    const text = await (await fetch(file)).text();
    if (!text.includes(`id="${id}"`)) missing.push(`no sign for ${id}`);
  }
  return missing;
}
