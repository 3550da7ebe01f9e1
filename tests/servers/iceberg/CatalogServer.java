import com.fasterxml.jackson.annotation.JsonAutoDetect;
import com.fasterxml.jackson.annotation.PropertyAccessor;
import com.fasterxml.jackson.databind.DeserializationFeature;
import com.fasterxml.jackson.databind.ObjectMapper;
import com.fasterxml.jackson.databind.PropertyNamingStrategies;
import com.sun.net.httpserver.HttpExchange;
import com.sun.net.httpserver.HttpServer;
import java.io.File;
import java.io.IOException;
import java.net.InetSocketAddress;
import java.net.URI;
import java.util.Map;
import java.util.concurrent.Executors;
import org.apache.iceberg.Files;
import org.apache.iceberg.catalog.Namespace;
import org.apache.iceberg.catalog.TableIdentifier;
import org.apache.iceberg.exceptions.AlreadyExistsException;
import org.apache.iceberg.exceptions.CommitFailedException;
import org.apache.iceberg.exceptions.NoSuchNamespaceException;
import org.apache.iceberg.exceptions.NoSuchTableException;
import org.apache.iceberg.exceptions.NotAuthorizedException;
import org.apache.iceberg.exceptions.ValidationException;
import org.apache.iceberg.io.FileIO;
import org.apache.iceberg.io.InputFile;
import org.apache.iceberg.io.OutputFile;
import org.apache.iceberg.jdbc.JdbcCatalog;
import org.apache.iceberg.rest.CatalogHandlers;
import org.apache.iceberg.rest.RESTCatalogProperties.SnapshotMode;
import org.apache.iceberg.rest.RESTResponse;
import org.apache.iceberg.rest.RESTSerializers;
import org.apache.iceberg.rest.RESTUtil;
import org.apache.iceberg.rest.requests.CreateNamespaceRequest;
import org.apache.iceberg.rest.requests.CreateTableRequest;
import org.apache.iceberg.rest.requests.UpdateTableRequest;
import org.apache.iceberg.rest.responses.ConfigResponse;
import org.apache.iceberg.rest.responses.ErrorResponse;

/**
 * A REST catalog of Iceberg tables on local disk, for tests: Apache Iceberg's own handlers of requests
 * over its JDBC catalog, in memory, behind the HTTP server of the JDK. It prints its address. Below
 * /secured it is the same catalog for those who send the token "secret". It names metadata files by
 * their paths, not by the URIs that clients give.
 */
public class CatalogServer {
  private static final ObjectMapper JSON =
      new ObjectMapper()
          .setVisibility(PropertyAccessor.FIELD, JsonAutoDetect.Visibility.ANY)
          .configure(DeserializationFeature.FAIL_ON_UNKNOWN_PROPERTIES, false)
          .setPropertyNamingStrategy(PropertyNamingStrategies.KEBAB_CASE);
  private static final JdbcCatalog CATALOG = new JdbcCatalog(properties -> new LocalFiles(), null, true);

  public static void main(String[] arguments) throws IOException {
    RESTSerializers.registerAll(JSON);
    String database = "jdbc:h2:mem:catalog;DB_CLOSE_DELAY=-1;DATABASE_TO_UPPER=false";
    CATALOG.initialize(
        "test", Map.of("uri", database, "warehouse", arguments[0], "jdbc.schema-version", "V1"));
    HttpServer server = HttpServer.create(new InetSocketAddress("127.0.0.1", 0), 0);
    server.createContext("/", CatalogServer::answer);
    server.setExecutor(Executors.newFixedThreadPool(4));
    server.start();
    System.out.println("http://127.0.0.1:" + server.getAddress().getPort());
  }

  private static void answer(HttpExchange exchange) throws IOException {
    int status = 200;
    Object found;
    try {
      found = handle(exchange);
      status = found == null ? 204 : 200;
    } catch (Exception error) {
      status = status(error);
      found =
          ErrorResponse.builder()
              .responseCode(status)
              .withType(error.getClass().getSimpleName())
              .withMessage(error.getMessage())
              .build();
    }
    boolean empty = found == null || exchange.getRequestMethod().equals("HEAD");
    byte[] body = empty ? new byte[0] : JSON.writeValueAsBytes(found);
    exchange.getResponseHeaders().set("Content-Type", "application/json");
    exchange.sendResponseHeaders(status, empty ? -1 : body.length);
    exchange.getResponseBody().write(body);
    exchange.close();
  }

  private static RESTResponse handle(HttpExchange exchange) throws IOException {
    String path = exchange.getRequestURI().getRawPath();
    if (path.startsWith("/secured/")) {
      String sent = exchange.getRequestHeaders().getFirst("Authorization");
      if (!"Bearer secret".equals(sent)) {
        throw new NotAuthorizedException("the token is missing or wrong");
      }
      path = path.substring("/secured".length());
    }
    String[] parts = path.substring("/v1/".length()).split("/");
    Namespace namespace =
        parts.length < 2 ? null : RESTUtil.decodeNamespaceAsPathSegment(parts[1], "%1F");
    TableIdentifier table =
        parts.length < 4 ? null : TableIdentifier.of(namespace, RESTUtil.decodePathSegment(parts[3]));
    String resource = parts.length == 3 ? parts[2] : table == null ? parts[0] : "table";
    switch (exchange.getRequestMethod() + " " + resource) {
      case "GET config":
        return ConfigResponse.builder().build();
      case "GET namespaces":
        return namespace == null
            ? CatalogHandlers.listNamespaces(CATALOG, Namespace.empty())
            : CatalogHandlers.loadNamespace(CATALOG, namespace);
      case "HEAD namespaces":
        CatalogHandlers.namespaceExists(CATALOG, namespace);
        return null;
      case "POST namespaces":
        return CatalogHandlers.createNamespace(CATALOG, read(exchange, CreateNamespaceRequest.class));
      case "GET tables":
        return CatalogHandlers.listTables(CATALOG, namespace);
      case "POST tables":
        return CatalogHandlers.createTable(CATALOG, namespace, read(exchange, CreateTableRequest.class));
      case "GET table":
        return CatalogHandlers.loadTable(CATALOG, table, SnapshotMode.ALL);
      case "HEAD table":
        CatalogHandlers.tableExists(CATALOG, table);
        return null;
      case "POST table":
        return CatalogHandlers.updateTable(CATALOG, table, read(exchange, UpdateTableRequest.class));
      case "DELETE table":
        CatalogHandlers.dropTable(CATALOG, table);
        return null;
      default:
        throw new UnsupportedOperationException(exchange.getRequestMethod() + " " + path);
    }
  }

  private static <T> T read(HttpExchange exchange, Class<T> type) throws IOException {
    return JSON.readValue(exchange.getRequestBody(), type);
  }

  private static int status(Exception error) {
    if (error instanceof NoSuchTableException || error instanceof NoSuchNamespaceException) {
      return 404;
    }
    if (error instanceof AlreadyExistsException || error instanceof CommitFailedException) {
      return 409;
    }
    if (error instanceof NotAuthorizedException) {
      return 401;
    }
    if (error instanceof IllegalArgumentException || error instanceof ValidationException) {
      return 400;
    }
    return error instanceof UnsupportedOperationException ? 406 : 500;
  }

  /** Files by URIs of the scheme file. */
  private static class LocalFiles implements FileIO {
    @Override
    public InputFile newInputFile(String uri) {
      return Files.localInput(file(uri));
    }

    @Override
    public OutputFile newOutputFile(String uri) {
      return Files.localOutput(file(uri));
    }

    @Override
    public void deleteFile(String uri) {
      file(uri).delete();
    }

    private static File file(String uri) {
      return new File(URI.create(uri).getPath());
    }
  }
}
