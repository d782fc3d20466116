//! What a manager sets.

use super::{WireError, v1};
use crate::configuration::{Configuration, RateSettings};

impl From<&Configuration> for v1::Configuration {
    fn from(configuration: &Configuration) -> Self {
        let rates = &configuration.rates;
        Self {
            version: configuration.version,
            upload: rates.upload,
            download: rates.download,
            source: rates.source,
            disk: rates.disk,
        }
    }
}

impl TryFrom<v1::Configuration> for Configuration {
    type Error = WireError;

    fn try_from(value: v1::Configuration) -> Result<Self, WireError> {
        let rates = RateSettings {
            upload: value.upload,
            download: value.download,
            source: value.source,
            disk: value.disk,
        };
        if !rates.is_valid() {
            return Err(WireError::Invalid("rates"));
        }
        Ok(Self {
            version: value.version,
            rates,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_configuration_survives_the_wire_and_nonsense_does_not() {
        let configuration = Configuration {
            version: 7,
            rates: RateSettings {
                upload: Some(0),
                source: Some(1 << 30),
                ..RateSettings::default()
            },
        };
        let wire = v1::Configuration::from(&configuration);
        assert_eq!(Configuration::try_from(wire), Ok(configuration));
        let slow = v1::Configuration {
            disk: Some(1),
            ..wire
        };
        assert_eq!(
            Configuration::try_from(slow),
            Err(WireError::Invalid("rates"))
        );
    }
}
