// Shows openapi.json in the element #api-reference, in the page's colour scheme.
SwaggerUIBundle({
  spec: window.openapiDocument,
  domNode: document.getElementById("api-reference"),
  deepLinking: false,
  docExpansion: "list",
  defaultModelsExpandDepth: -1,
  showExtensions: true,
  supportedSubmitMethods: [],
});

function followScheme() {
  const isDark = document.body.dataset.mdColorScheme === "slate";
  document.documentElement.classList.toggle("dark-mode", isDark);
}
followScheme();
new MutationObserver(followScheme).observe(document.body, { attributeFilter: ["data-md-color-scheme"] });
