import com.google.gson.Gson;
import com.google.gson.GsonBuilder;
import com.google.gson.JsonObject;
import com.google.gson.JsonParser;
import com.google.gson.reflect.TypeToken;
import io.kubernetes.client.Discovery;
import io.kubernetes.client.Exec;
import io.kubernetes.client.common.KubernetesObject;
import io.kubernetes.client.custom.V1Patch;
import io.kubernetes.client.informer.ResourceEventHandler;
import io.kubernetes.client.informer.SharedIndexInformer;
import io.kubernetes.client.informer.SharedInformerFactory;
import io.kubernetes.client.openapi.ApiClient;
import io.kubernetes.client.openapi.ApiException;
import io.kubernetes.client.openapi.JSON;
import io.kubernetes.client.openapi.apis.AppsV1Api;
import io.kubernetes.client.openapi.apis.AuthenticationV1Api;
import io.kubernetes.client.openapi.apis.AuthorizationV1Api;
import io.kubernetes.client.openapi.apis.CoreV1Api;
import io.kubernetes.client.openapi.models.*;
import io.kubernetes.client.util.ClientBuilder;
import io.kubernetes.client.util.KubeConfig;
import io.kubernetes.client.util.PatchUtils;
import io.kubernetes.client.util.Watch;
import io.kubernetes.client.util.generic.GenericKubernetesApi;
import java.io.BufferedReader;
import java.io.File;
import java.io.FileReader;
import java.io.IOException;
import java.io.InputStreamReader;
import java.io.PrintWriter;
import java.io.StringWriter;
import java.time.Duration;
import java.util.ArrayList;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;
import java.util.Set;
import java.util.TreeSet;
import java.util.concurrent.LinkedBlockingQueue;
import java.util.concurrent.atomic.AtomicReference;
import okhttp3.Call;

/** Does what a user does with the official Java client: reads one deed per line (JSON), writes its events and its outcome. */
public final class Client {
  private static final Gson LINES = new GsonBuilder().serializeNulls().disableHtmlEscaping().create();

  private final ApiClient api;
  private final CoreV1Api core;
  private final AppsV1Api apps;

  private Client(ApiClient api) {
    this.api = api;
    this.core = new CoreV1Api(api);
    this.apps = new AppsV1Api(api);
  }

  public static void main(String[] none) throws IOException {
    File path = new File(System.getenv("KUBECONFIG"));
    KubeConfig config = KubeConfig.loadKubeConfig(new FileReader(path));
    config.setFile(path);
    ApiClient api = ClientBuilder.kubeconfig(config).setReadTimeout(Duration.ZERO).build();
    Client client = new Client(api);
    BufferedReader lines = new BufferedReader(new InputStreamReader(System.in));
    for (String line = lines.readLine(); line != null; line = lines.readLine()) {
      client.write(client.outcome(JsonParser.parseString(line).getAsJsonObject()));
    }
    System.exit(0);
  }

  private void write(Map<String, Object> line) {
    System.out.println(LINES.toJson(line));
    System.out.flush();
  }

  private void event(String type, String name) {
    Map<String, Object> line = new LinkedHashMap<>();
    line.put("event", type);
    line.put("name", name);
    write(line);
  }

  private Map<String, Object> outcome(JsonObject deed) {
    Map<String, Object> outcome = new LinkedHashMap<>();
    try {
      Object said = act(deed);
      outcome.put("ok", true);
      outcome.put("said", JsonParser.parseString(JSON.serialize(said)));
    } catch (ApiException error) {
      outcome.put("ok", false);
      outcome.put("code", error.getCode());
      outcome.put("reason", reason(error.getResponseBody()));
      outcome.put("said", error.toString());
    } catch (Exception error) {
      StringWriter trace = new StringWriter();
      error.printStackTrace(new PrintWriter(trace));
      outcome.put("ok", false);
      outcome.put("said", trace.toString());
    }
    return outcome;
  }

  private static String reason(String body) {
    try {
      return JsonParser.parseString(body).getAsJsonObject().get("reason").getAsString();
    } catch (RuntimeException none) {
      return null;
    }
  }

  private Object act(JsonObject deed) throws Exception {
    String namespace = text(deed, "namespace");
    String name = text(deed, "name");
    return switch (text(deed, "deed")) {
      case "whoami" ->
          new AuthenticationV1Api(api).createSelfSubjectReview(new V1SelfSubjectReview()).execute();
      case "can-i" -> mayI(deed);
      case "discovery" -> discovery();
      case "list" -> core.listNamespacedConfigMap(namespace).execute();
      case "pages" -> pages(namespace, deed.get("limit").getAsInt());
      case "secret" -> core.readNamespacedSecret(name, namespace).execute();
      case "watch" -> watch(deed);
      case "informer" -> informer(deed);
      case "create" -> core.createNamespacedConfigMap(namespace, configMap(deed)).execute();
      case "create-deployment" -> apps.createNamespacedDeployment(namespace, deployment(name)).execute();
      case "apply-server-side" -> apply(deed);
      case "patch" -> patch(deed);
      case "replace" -> {
        V1ConfigMap found = core.readNamespacedConfigMap(name, namespace).execute();
        found.putDataItem("text", text(deed, "text"));
        yield core.replaceNamespacedConfigMap(name, namespace, found).execute();
      }
      case "delete" ->
          text(deed, "resource").equals("services")
              ? core.deleteNamespacedService(name, namespace).execute()
              : apps.deleteNamespacedDeployment(name, namespace).execute();
      case "exec" -> exec(namespace, name);
      default -> throw new IllegalArgumentException("unknown deed " + deed);
    };
  }

  private static String text(JsonObject deed, String key) {
    return deed.has(key) ? deed.get(key).getAsString() : "";
  }

  private Object mayI(JsonObject deed) throws ApiException {
    V1ResourceAttributes attributes =
        new V1ResourceAttributes()
            .namespace(text(deed, "namespace"))
            .verb(text(deed, "verb"))
            .group(text(deed, "group"))
            .resource(text(deed, "resource"));
    V1SelfSubjectAccessReviewSpec spec = new V1SelfSubjectAccessReviewSpec().resourceAttributes(attributes);
    return new AuthorizationV1Api(api)
        .createSelfSubjectAccessReview(new V1SelfSubjectAccessReview().spec(spec))
        .execute();
  }

  private Set<String> discovery() throws ApiException {
    Set<String> names = new TreeSet<>();
    for (Discovery.APIResource resource : new Discovery(api).findAll()) {
      String group = resource.getGroup() == null || resource.getGroup().isEmpty() ? "" : resource.getGroup() + "/";
      names.add(group + resource.getPreferredVersion() + "/" + resource.getResourcePlural());
    }
    return names;
  }

  private Object pages(String namespace, int limit) throws ApiException {
    int pages = 0;
    List<String> names = new ArrayList<>();
    String token = null;
    do {
      V1ConfigMapList page = core.listNamespacedConfigMap(namespace).limit(limit)._continue(token).execute();
      page.getItems().forEach(item -> names.add(item.getMetadata().getName()));
      token = page.getMetadata().getContinue();
      pages++;
    } while (token != null && !token.isEmpty());
    Map<String, Object> said = new LinkedHashMap<>();
    said.put("pages", pages);
    said.put("names", names);
    return said;
  }

  private Object watch(JsonObject deed) throws ApiException, IOException {
    String namespace = text(deed, "namespace");
    String version = text(deed, "resourceVersion").isEmpty() ? null : text(deed, "resourceVersion");
    if (text(deed, "resource").equals("services")) {
      Call call = core.listNamespacedService(namespace).watch(true).resourceVersion(version).buildCall(null);
      return watch(call, V1Service.class, text(deed, "until"));
    }
    Call call = core.listNamespacedConfigMap(namespace).watch(true).resourceVersion(version).buildCall(null);
    return watch(call, V1ConfigMap.class, text(deed, "until"));
  }

  private <T extends KubernetesObject> Object watch(Call call, Class<T> kind, String until) throws ApiException, IOException {
    var type = TypeToken.getParameterized(Watch.Response.class, kind).getType();
    try (Watch<T> watch = Watch.createWatch(api, call, type)) {
      while (watch.hasNext()) {
        Watch.Response<T> event = watch.next();
        if (event.type.equals("ERROR")) {
          throw new ApiException(event.status.getCode(), event.status.getMessage(), null, JSON.serialize(event.status));
        }
        String name = event.object.getMetadata().getName();
        event(event.type, name);
        if (name.equals(until)) {
          return null;
        }
      }
    }
    throw new IOException("the watch ended without an error");
  }

  private Object informer(JsonObject deed) throws InterruptedException {
    LinkedBlockingQueue<String> names = new LinkedBlockingQueue<>();
    SharedInformerFactory factory = new SharedInformerFactory(api);
    try {
      GenericKubernetesApi<V1ConfigMap, V1ConfigMapList> maps =
          new GenericKubernetesApi<>(V1ConfigMap.class, V1ConfigMapList.class, "", "v1", "configmaps", api);
      SharedIndexInformer<V1ConfigMap> informer =
          factory.sharedIndexInformerFor(maps, V1ConfigMap.class, 0, text(deed, "namespace"));
      informer.addEventHandler(
          new ResourceEventHandler<>() {
            public void onAdd(V1ConfigMap object) {
              names.add(object.getMetadata().getName());
            }

            public void onUpdate(V1ConfigMap before, V1ConfigMap after) {}

            public void onDelete(V1ConfigMap object, boolean unknown) {}
          });
      factory.startAllRegisteredInformers();
      String name;
      do {
        name = names.take();
        event("ADDED", name);
      } while (!name.equals(text(deed, "until")));
    } finally {
      factory.stopAllRegisteredInformers();
    }
    return null;
  }

  private Object apply(JsonObject deed) throws ApiException {
    JsonObject body = JsonParser.parseString("{\"apiVersion\":\"v1\",\"kind\":\"ConfigMap\"}").getAsJsonObject();
    JsonObject metadata = new JsonObject();
    metadata.addProperty("name", text(deed, "name"));
    body.add("metadata", metadata);
    return patch(deed, body, V1Patch.PATCH_FORMAT_APPLY_YAML);
  }

  private Object patch(JsonObject deed) throws ApiException {
    return patch(deed, new JsonObject(), V1Patch.PATCH_FORMAT_JSON_MERGE_PATCH);
  }

  private Object patch(JsonObject deed, JsonObject body, String format) throws ApiException {
    JsonObject data = new JsonObject();
    data.addProperty("text", text(deed, "text"));
    body.add("data", data);
    var request =
        core.patchNamespacedConfigMap(text(deed, "name"), text(deed, "namespace"), new V1Patch(body.toString()));
    var asked = format.equals(V1Patch.PATCH_FORMAT_APPLY_YAML) ? request.fieldManager("clients").force(true) : request;
    return PatchUtils.patch(V1ConfigMap.class, () -> asked.buildCall(null), format, api);
  }

  private Object exec(String namespace, String name) throws Exception {
    AtomicReference<Throwable> refusal = new AtomicReference<>();
    Process process =
        new Exec(api)
            .newExecutionBuilder(namespace, name, new String[] {"ls"})
            .setStdin(false)
            .setOnUnhandledError(refusal::set)
            .execute();
    process.waitFor();
    if (refusal.get() != null) {
      throw new IOException(refusal.get());
    }
    return new String(process.getInputStream().readAllBytes());
  }

  private static V1ConfigMap configMap(JsonObject deed) {
    return new V1ConfigMap()
        .metadata(new V1ObjectMeta().name(text(deed, "name")))
        .putDataItem("text", text(deed, "text"));
  }

  private static V1Deployment deployment(String name) {
    Map<String, String> labels = Map.of("app", name);
    V1PodSpec pod = new V1PodSpec().addContainersItem(new V1Container().name("web").image("checkout:2.3.1"));
    V1PodTemplateSpec template = new V1PodTemplateSpec().metadata(new V1ObjectMeta().labels(labels)).spec(pod);
    V1DeploymentSpec spec =
        new V1DeploymentSpec().replicas(0).selector(new V1LabelSelector().matchLabels(labels)).template(template);
    return new V1Deployment().metadata(new V1ObjectMeta().name(name)).spec(spec);
  }
}
