/**
 * Beam's Flink job server, without what it does by default: to send its whole class path, 160 MB, along
 * with each job. The cluster has Beam's classes already.
 */
public class JobServer {
  public static void main(String[] arguments) throws Exception {
    System.setProperty("java.class.path", "");
    org.apache.beam.runners.flink.FlinkJobServerDriver.main(arguments);
  }
}
