//! What a manager sets.

use super::{WireError, v1};
use crate::configuration::Configuration;

impl From<&Configuration> for v1::Configuration {
    fn from(configuration: &Configuration) -> Self {
        // Numbers, texts and lists of them: nothing that JSON could not say.
        let json = serde_json::to_string(configuration).unwrap_or_default();
        Self { json }
    }
}

impl TryFrom<v1::Configuration> for Configuration {
    type Error = WireError;

    fn try_from(value: v1::Configuration) -> Result<Self, WireError> {
        let parsed = serde_json::from_str(&value.json);
        let configuration: Self = parsed.map_err(|_| WireError::Invalid("json"))?;
        let checked = configuration.check();
        checked.map_err(|cause| WireError::Invalid(cause.field))?;
        Ok(configuration)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::configuration::{PeerSettings, RateSettings, Rule, SchedulerSettings};

    #[test]
    fn a_configuration_survives_the_wire_and_nonsense_does_not() {
        let configuration = Configuration {
            version: 7,
            cluster: "east".to_owned(),
            seed: Some(false),
            peer: PeerSettings {
                rates: RateSettings {
                    upload: Some(0),
                    source: Some(1 << 30),
                    ..RateSettings::default()
                },
                upload_slots: Some(8),
                ..PeerSettings::default()
            },
            scheduler: SchedulerSettings {
                degree: Some(8),
                rules: Some(vec![Rule::default()]),
                ..SchedulerSettings::default()
            },
        };
        let wire = v1::Configuration::from(&configuration);
        assert!(wire.json.contains("\"upload\":0"), "flat: {}", wire.json);
        assert_eq!(Configuration::try_from(wire), Ok(configuration));
        let json = |text: &str| {
            let json = text.to_owned();
            Configuration::try_from(v1::Configuration { json })
        };
        // A newer manager's.
        let newer = r#"{"version":1,"mode":"x","peer":{"disk":0,"later":true}}"#;
        assert_eq!(json(newer).map(|set| set.peer.rates.disk), Ok(Some(0)));
        for (nonsense, field) in [
            ("", "json"),
            ("[", "json"),
            (r#"{"version":-1}"#, "json"),
            (r#"{"peer":{"disk":1}}"#, "disk"),
            (r#"{"peer":{"upload_slots":0}}"#, "upload_slots"),
            (r#"{"scheduler":{"degree":1000}}"#, "degree"),
            (r#"{"scheduler":{"rules":[{"new":1}]}}"#, "json"),
        ] {
            assert_eq!(json(nonsense), Err(WireError::Invalid(field)), "{nonsense}");
        }
    }
}
