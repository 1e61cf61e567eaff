// Swagger UI over the description of this service. Its validator is at another host, so there is none.
SwaggerUIBundle({ url: "/openapi.json", dom_id: "#swagger-ui", validatorUrl: null });
