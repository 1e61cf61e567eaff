// A question as the fragment of a link, which browsers send to nobody: the tab, its fields, and the context.

export function linkOf(form, context) {
  const fields = [...form.elements].filter(({ name, value }) => name && value);
  const params = new URLSearchParams([["ask", form.parentElement.id], ...fields.map(({ name, value }) => [name, value])]);
  if (context) params.set("context", context);
  return `#${params}`;
}

// Fill in the form that a link means, and return it; null if it means none.
export function fillFrom(hash, context) {
  const params = new URLSearchParams(hash.slice(1));
  const form = [...document.forms].find((one) => one.parentElement.id === params.get("ask"));
  if (!form) return null;
  form.reset();
  for (const field of form.elements) if (field.name && params.has(field.name)) field.value = params.get(field.name);
  context.value = params.get("context") ?? "";
  return form;
}
