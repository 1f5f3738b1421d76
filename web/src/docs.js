// Owns the API page's start: sets Swagger UI up to talk to this origin and nobody else.

// Swagger UI is dark by a class, not by the system's wish; this carries the wish over.
const dark = matchMedia("(prefers-color-scheme: dark)");
const follow = () => document.documentElement.classList.toggle("dark-mode", dark.matches);
dark.addEventListener("change", follow);
follow();

window.SwaggerUIBundle({
  url: "/api/openapi.json",
  dom_id: "#api",
  deepLinking: true,
  docExpansion: "list",
  defaultModelsExpandDepth: 0,
  defaultModelExpandDepth: 4,
  displayRequestDuration: true,
  // The library's default asks a public validator about every document that is not on localhost.
  validatorUrl: "none",
  // Nor may the address bar point the page, and with it a token, at somebody else's document.
  queryConfigEnabled: false,
  // A token typed here is gone with the page.
  persistAuthorization: false,
});
