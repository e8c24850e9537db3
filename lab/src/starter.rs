//! What `cargo lab new` makes of each lesson, in containers.

use anyhow::Result;

use crate::new::read;
use crate::root;

/// What becomes of a lesson.
pub(crate) struct Starter {
    pub number: &'static str,
    pub mysql: bool,
    /// What runs in containers; several of the first one.
    pub services: &'static [Container],
}

/// A program in a container.
pub(crate) struct Container {
    pub program: &'static str,
    arguments: &'static [&'static str],
    /// For HTTP: ports of this machine, and the one in the container.
    ports: Option<&'static str>,
}

const fn container(program: &'static str, arguments: &'static [&'static str]) -> Container {
    Container { program, arguments, ports: None }
}

const fn web(
    program: &'static str,
    arguments: &'static [&'static str],
    ports: &'static str,
) -> Container {
    Container { program, arguments, ports: Some(ports) }
}

pub(crate) const STARTERS: [Starter; 11] = [
    starter("01", false, &[container("receive", &[])]),
    starter("02", false, &[container("worker", &[])]),
    starter("03", false, &[container("receive-logs", &[])]),
    starter("04", false, &[container("receive-logs-topic", &["#"])]),
    starter("05", true, &[container("receive-orders", &[])]),
    starter(
        "06",
        true,
        &[
            web(
                "main",
                &["--listen", "0.0.0.0:8001", "--admin", "http://admin:8000"],
                "8001-8009:8001",
            ),
            web("admin", &["--listen", "0.0.0.0:8000", "--host", "admin"], "8000:8000"),
            web("feedback", &["--listen", "0.0.0.0:8010"], "8010:8010"),
        ],
    ),
    starter("07", false, &[container("run-jobs", &[])]),
    starter("08", false, &[container("rpc-server", &[])]),
    starter("09", false, &[container("read-events", &["--offset-file", "/data/reader.offset"])]),
    starter("10", false, &[container("publish-steadily", &[]), container("count-steadily", &[])]),
    starter("11", false, &[container("mailer", &["--folder", "/data/mails"])]),
];

const fn starter(number: &'static str, mysql: bool, services: &'static [Container]) -> Starter {
    Starter { number, mysql, services }
}

/// The image has no client for HTTP. Bash is one.
const READY: &str = r#"    healthcheck:
      test: ["CMD", "bash", "-c", "exec 3<>/dev/tcp/localhost/9000; printf 'GET /health/ready HTTP/1.0\\r\\n\\r\\n' >&3; grep -q '^ready' <&3"]
      interval: 5s
      timeout: 5s
      start_period: 60s
"#;

/// compose.yaml: the programs of a project, and the servers that they need.
pub(crate) fn compose(starter: &Starter, name: &str) -> Result<String> {
    let mut services = String::new();
    for Container { program, arguments, ports } in starter.services {
        let command = serde_json::to_string(&[&[*program], *arguments].concat())?;
        services += &format!("  {program}:\n    build: .\n    image: {name}:local\n");
        services += &format!("    command: {command}\n    environment:\n");
        services += "      AMQP_URL: amqp://guest:guest@rabbitmq:5672/%2f\n";
        services += "      WAIT_FOR_BROKER: 60\n";
        services += "      LOG_FORMAT: json\n      HEALTH_LISTEN: 0.0.0.0:9000\n";
        services += "      #mysql MYSQL_URL: mysql://guest:guest@mysql:3306/test\n";
        services += "    #data volumes: [\"data:/data\"]\n";
        if let Some(ports) = ports {
            services += &format!("    ports: [\"127.0.0.1:{ports}\"]\n");
        }
        services += "    depends_on:\n      rabbitmq: { condition: service_healthy }\n";
        services += "      #mysql mysql: { condition: service_healthy }\n";
        services += "    init: true # passes SIGTERM on to a program that has no handler yet\n";
        services += READY;
        services += "    restart: unless-stopped\n    stop_grace_period: 30s\n";
        services +=
            "    # Docker keeps all logs, if it is not told how many: until the disk is full.\n";
        services +=
            "    logging: { driver: json-file, options: { max-size: 20m, max-file: \"5\" } }\n\n";
    }
    let template = read(&root().join("lab/new/compose.yaml"))?;
    let text = template.replace("{services}\n", &services);
    let mut lines = Vec::new();
    for line in text.lines() {
        // What is for MySQL, for streams or for files is left out where there are none.
        let parts = [
            ("#mysql ", starter.mysql),
            ("#stream ", starter.number == "09"),
            ("#data ", services.contains("/data/")),
        ];
        match parts.iter().find_map(|(mark, wanted)| Some((line.split_once(mark)?, *wanted))) {
            None => lines.push(line.to_owned()),
            Some(((indent, rest), true)) => lines.push(format!("{indent}{rest}")),
            Some((_, false)) => {}
        }
    }
    lines.dedup_by(|line, before| line.is_empty() && before.is_empty());
    Ok(lines.join("\n") + "\n")
}
